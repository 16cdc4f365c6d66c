"""Shared fixtures. Eight host devices are set up before JAX starts, so that every test can use a mesh."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "PJRT_NPROC", "16"
)  # threads enough for all devices to wait for each other: see kdhash/main.py

import numpy as np
import pytest

SHARED = Path(os.environ.get("KDHASH_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data, weights and oracle values that lies beside a checkout; see CONTRIBUTING.md."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared folder at {SHARED}; set KDHASH_SHARED to its place")
    return SHARED


@pytest.fixture(scope="session")
def oracle(shared):
    """`oracle('metrics')` -> dict of the arrays of shared/oracles/metrics.npz."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / "oracles" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load
