"""`prepare` from its arguments to its messages."""

import argparse
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kdhash.data import cli, load_dataset


def prepare(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers(dest="command"))
    args = parser.parse_args(["prepare", *map(str, arguments)])
    assert args.run is cli.run
    return cli.run(args)


@pytest.fixture
def pictures(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((20, 20, 3), 10 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures/bee/bad.png").write_bytes(b"?")
    return tmp_path / "pictures"


def test_folder(tmp_path, pictures, capsys):
    arguments = [
        pictures,
        "--name",
        "mine",
        "--data-dir",
        tmp_path / "data",
        "--size",
        16,
        "--test-share",
        0.25,
    ]
    assert prepare("folder", *arguments) == 0
    out, err = capsys.readouterr()
    assert "mine: 6 train, 2 test pictures in" in out
    assert "2 classes: ant, bee" in out
    assert "skipped 1 files:\n  bee/bad.png: not a picture" in out
    assert err == ""
    assert len(load_dataset("mine", tmp_path / "data")) == 8


def test_folder_that_fails(tmp_path, pictures, capsys):
    arguments = [pictures, "--name", "mine", "--data-dir", tmp_path / "data", "--on-error", "fail"]
    assert prepare("folder", *arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "bad.png" in err


def test_cifar_with_a_wrong_archive(tmp_path, capsys):
    (tmp_path / "archive").write_bytes(b"?")
    assert prepare("cifar10", "--archive", tmp_path / "archive", "--data-dir", tmp_path / "data") == 1
    assert "expected c4a38c50" in capsys.readouterr().err


def test_cifar_that_is_there_already(tmp_path, capsys):
    (tmp_path / "cifar100/3.0.2").mkdir(parents=True)
    assert prepare("cifar100", "--download", "--data-dir", tmp_path) == 0
    assert "already there; remove it" in capsys.readouterr().out


def test_download_offline(tmp_path, capsys, monkeypatch):
    def fail(url, timeout):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    assert prepare("cifar10", "--download", "--data-dir", tmp_path / "data") == 1
    assert "Network is unreachable; get the file by other means" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["cifar10"], ["cifar10", "--archive", "x", "--download"], ["folder", "x"], []]
)
def test_incomplete_arguments(arguments):
    with pytest.raises(SystemExit):
        prepare(*arguments)


def test_as_a_program_without_tensorflow(tmp_path, pictures):
    program = (
        "import argparse, sys\n"
        "from kdhash.data import cli\n"
        "parser = argparse.ArgumentParser()\n"
        "cli.add_parser(parser.add_subparsers())\n"
        "code = cli.run(parser.parse_args(sys.argv[1:]))\n"
        "print(sorted({'tensorflow', 'torch', 'clu'} & set(sys.modules)))\n"
        "sys.exit(code)\n"
    )
    arguments = ["prepare", "folder", str(pictures), "--name", "mine", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
