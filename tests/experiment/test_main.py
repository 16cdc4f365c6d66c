"""The command line: one clear line for what a newcomer gets wrong, and no TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def kdhash_main(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kdhash.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": ""},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "configs/quickstart.py"), "both are needed: --config configs/x.py --workdir runs/x"),
        (("--config.bitz=16",), "config has no field 'bitz'; did you mean 'bits'?"),
        (("--config.bits=many",), "flag --config.bits=many: invalid literal"),
        (("--config.bits=20",), "config.bits is 20; codes are packed 8 bits a byte"),
        (("--process_index=1",), "give --coordinator, --process_count and --process_index together"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, arguments, message):
    if "--config" not in arguments:
        arguments = ("--config", "configs/quickstart.py", "--workdir", str(tmp_path / "run"), *arguments)
    done = kdhash_main(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("kdhash: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_nothing_imports_tensorflow_or_torch():
    # tensorboardX takes PyTorch where it is installed; here it is kept out, and all must work without.
    program = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
import kdhash.main, kdhash.__main__, kdhash.experiment.run, kdhash.data.cli, kdhash.teachers.cli
import tensorflow_datasets
from kdhash.data import load_dataset

load_dataset("digits", None)
print([name for name in ("tensorflow", "torch", "clu") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
