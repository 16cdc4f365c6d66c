"""Two and four real processes give the numbers of one device: losses, gradients, batch statistics, codes."""

import jax
import numpy as np
import pytest

from kdhash.training.mapping import data_mesh
from tests.processes.starting import start_several, succeed
from tests.processes.steps import all_of


@pytest.fixture(scope="module")
def one_device():
    return all_of(data_mesh(jax.devices()[:1]))


@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_processes_give_the_numbers_of_one_device(one_device, tmp_path, count, devices):
    succeed(start_several(count, "tests.processes.steps", tmp_path, devices))
    with np.load(tmp_path / f"{count}.npz") as arrays:
        found = dict(arrays)
    assert {name.removeprefix("pmap ") for name in found} == set(one_device)
    assert len(found) > len(one_device) or devices == 1
    for name, value in found.items():
        expected = one_device[name.removeprefix("pmap ")]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=name)
