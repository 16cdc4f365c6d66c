"""What happens before a run does anything: programs are kept on disk, and help is there at once."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdhash import compilation

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "flax",
    "optax",
    "orbax",
    "grain",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "sklearn",
    "pandas",
    "matplotlib",
)


@pytest.mark.parametrize(("module", "heavy"), [("kdhash.main", HEAVY), ("kdhash", (*HEAVY, "jax"))])
def test_help_imports_nothing_heavy(module, heavy):
    program = f"""
import runpy, sys
sys.argv = ["kdhash", "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit:
    print("imported:", [name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "usage" in done.stdout.lower() or "flags" in done.stdout.lower(), done.stderr
    assert done.stdout.endswith("imported: []\n")


@pytest.fixture
def kept(monkeypatch):
    """What JAX is told."""
    told = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=SimpleNamespace(update=told.__setitem__)))
    return told


def test_programs_are_kept_beside_the_workdir(kept, tmp_path):
    compilation.keep_programs("", str(tmp_path / "runs" / "one"))
    assert kept["jax_compilation_cache_dir"] == str(
        tmp_path / "runs" / ".jax_cache" / compilation.processor()
    )
    assert kept["jax_persistent_cache_min_compile_time_secs"] < 1
    assert not any(tmp_path.iterdir())  # the workdir's parent is made by the run, if the run begins

    compilation.keep_programs(str(tmp_path / "elsewhere"), str(tmp_path / "runs" / "one"))
    assert kept["jax_compilation_cache_dir"] == str(tmp_path / "elsewhere" / compilation.processor())


def test_programs_are_not_kept(kept, tmp_path, monkeypatch):
    compilation.keep_programs("off", str(tmp_path / "run"))
    monkeypatch.setattr(compilation.os, "access", lambda *_: False)
    compilation.keep_programs("", str(tmp_path / "run"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # JAX reads it itself
    compilation.keep_programs(str(tmp_path / "elsewhere"), str(tmp_path / "run"))
    assert not kept


def test_programs_of_another_user_are_not_read(kept, tmp_path, monkeypatch):
    (tmp_path / ".jax_cache").mkdir()
    monkeypatch.setattr(compilation.os, "getuid", lambda: -1)
    compilation.keep_programs("", str(tmp_path / "run"))
    assert kept  # who shares the folder may share the programs
    kept.clear()
    tmp_path.chmod(0o1777)
    compilation.keep_programs("", str(tmp_path / "run"))
    assert not kept
