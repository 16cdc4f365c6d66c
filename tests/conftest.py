"""Shared fixtures. Eight host devices are set up before JAX starts, so that every test can use a mesh."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

# Most of the tests' time is XLA's compiler, which is much faster without its optimiser and fusion emitters. Both are what the
# environment says, where it does: JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_cpu_use_fusion_emitters=true pytest
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_use_fusion_emitters=false",
        os.environ.get("XLA_FLAGS", ""),  # the last of a name counts
    ]
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "PJRT_NPROC", "16"
)  # threads enough for all devices to wait for each other: see kdhash/main.py

import jax
import numpy as np
import pytest

# The same small programs are compiled in many tests: the processes of a test run share what they have compiled.
FIRST = "PYTEST_XDIST_WORKER" not in os.environ
COMPILED = Path(tempfile.gettempdir()) / f"kdhash-compiled-{os.getpid() if FIRST else os.getppid()}"
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# JAX makes many objects that stay: to look through all of them for garbage as often as Python does takes a tenth of the time.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

SHARED = Path(os.environ.get("KDHASH_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_sessionfinish():
    if FIRST:
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture
def optimized():
    """With XLA's optimiser: without it two programs of the same operations may round them differently."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # of what was compiled otherwise
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def shared() -> Path:
    """The folder of data and weights that lies beside a checkout; see CONTRIBUTING.md."""
    if not all((SHARED / name).is_dir() for name in ("data", "weights")):
        pytest.skip(f"no folder with data and weights at {SHARED}; set KDHASH_SHARED to its place")
    return SHARED


@pytest.fixture(scope="module")
def oracle():
    """`oracle('metrics')` -> dict of the arrays of SHARED/oracles/metrics.npz: numbers of independent programs."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = SHARED / "oracles" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"no reference numbers at {path}; set KDHASH_SHARED to the folder that holds oracles")
        with np.load(path) as file:
            return {key: file[key] for key in file.files}

    return load
