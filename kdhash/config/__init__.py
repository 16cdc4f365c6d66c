"""Checks a config before any work starts. Every message names the field and says what to do."""

from kdhash.config.check import ConfigError, check_config
from kdhash.config.fields import flat, weights_problems
from kdhash.config.kdcmh import PAIR_PROTOCOLS

__all__ = ["NOT_COMPUTED", "PAIR_PROTOCOLS", "ConfigError", "check_config", "flat", "weights_problems"]

# Where things lie, what is said of them, on how many devices and in how much memory, not what is computed: a workdir may be
# continued with other values of these.
NOT_COMPUTED = (
    "data_dir",
    "weights_dir",
    "cache_dir",
    "labels_note",
    "host_devices",
    "resident_mib",
    "profile",
    "remat",
    "compilation_cache_dir",
    "data_cache_dir",
)
