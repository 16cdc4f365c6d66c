"""What every process of these tests would import for seconds: a server imports it once, and they are forked from it."""

import importlib

import tests.processes.light  # noqa: F401 - before anything may import PyTorch

for module in (
    "kdhash.experiment.run",
    "kdhash.config",
    "ml_collections.config_flags",
    "pytest",
    "sklearn.datasets",
):
    importlib.import_module(module)
