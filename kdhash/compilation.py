"""XLA's programs on disk, so that the next start need not compile them again."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from kdhash.beside import place_of

FOLDER = ".jax_cache"
# To compile, for a program to be kept. JAX's own is 1: a small run has dozens that take less.
LEAST_SECONDS = 0.1


def keep_programs(folder: str, workdir: str) -> None:
    """Lets JAX keep what it compiles from now on: in `folder`; where that is '', beside the workdir, in .jax_cache, unless that
    is a stranger's, whose programs would be run; nowhere for 'off'. Where JAX_COMPILATION_CACHE_DIR is set, JAX keeps them there.

    Within the folder each kind of processor has its own: JAX's key holds its version, flags and devices, but of a CPU only
    that it is one, and a program for another CPU's instructions may end the process.
    """
    place = place_of(folder, workdir, FOLDER)
    if place is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", str(place / processor()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def processor() -> str:
    """A name for this machine's kind of CPU: the same on machines that have the same instructions, such as 'x86_64-1b2c3d4e'."""
    facts = [platform.system(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    telling = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    facts += [line for line in lines if line.split(":")[0].strip() in telling]
    return f"{platform.machine()}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
