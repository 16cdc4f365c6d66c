"""Every retrieval test that asks for `backend` runs on the compiled kernels and on NumPy."""

import pytest


@pytest.fixture(params=["numba", "numpy"])
def backend(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed")
    monkeypatch.setenv("KDHASH_HAMMING", request.param)
    return request.param
