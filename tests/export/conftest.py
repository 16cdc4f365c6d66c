"""Finished runs of each method, and a model folder of each, made once."""

import pytest


@pytest.fixture(scope="package")
def weights(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="package")
def dmth(tmp_path_factory):
    from tests.export.small_runs import write_dmth

    return write_dmth(tmp_path_factory.mktemp("dmth"))


@pytest.fixture(scope="package")
def brcd(tmp_path_factory, weights):
    from tests.export.small_runs import write_brcd

    return write_brcd(tmp_path_factory.mktemp("brcd"), weights)


@pytest.fixture(scope="package")
def kdcmh(tmp_path_factory, weights):
    from tests.export.small_runs import write_kdcmh

    return write_kdcmh(tmp_path_factory.mktemp("kdcmh"), weights)
