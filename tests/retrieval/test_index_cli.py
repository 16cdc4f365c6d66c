import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kdhash.__main__ import main
from kdhash.retrieval.index import open_index
from kdhash.retrieval.index_lock import write_lock
from tests.retrieval.index_data import codes_of_ids, make_codes

IDS = [f"2019/img {i}.jpg" for i in range(20)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with codes a (IDS 0 to 9), b (10 to 19) and codes.npy, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    make_codes(tmp_path / "a", IDS[:10], thumbs=True)
    make_codes(tmp_path / "b", IDS[10:])
    np.save("codes.npy", codes_of_ids(IDS))


def kdhash(capsys, *arguments):
    """(exit status, standard output, standard error) of a command."""
    capsys.readouterr()
    status = main(["index", *arguments])
    return status, *capsys.readouterr()


def answer(capsys, *arguments, status=0):
    """The JSON document of a command."""
    got, out, err = kdhash(capsys, *arguments, "--json")
    assert got == status, err
    return json.loads(out)


def test_the_life_of_an_index(capsys):
    assert kdhash(capsys, "build", "a", "ix") == (0, "ix: 10 items, 64 bits\n", "")
    assert kdhash(capsys, "add", "ix", "b") == (0, "ix: 10 items added\n", "")
    status, out, err = kdhash(capsys, "add", "ix", "b")
    assert (status, out) == (2, "")
    assert err.startswith("kdhash: ix has these ids already (--replace puts")
    assert err.count("\n") == 1
    assert kdhash(capsys, "add", "ix", "b", "--replace")[:2] == (
        0,
        "ix: 10 items added, 10 of them in the place of old ones\n",
    )
    assert kdhash(capsys, "delete", "ix", IDS[3], IDS[4]) == (0, "ix: 2 items deleted\n", "")
    status, out, err = kdhash(capsys, "delete", "ix", IDS[3], IDS[5])
    assert (status, out, err) == (3, "ix: 1 item deleted\n", f"kdhash: 1 id not there:\n  {IDS[3]}\n")
    assert kdhash(capsys, "merge", "ix") == (0, "ix: 17 items in 1 segment\n", "")
    status, out, err = kdhash(capsys, "verify", "ix")
    assert status == 0
    assert out.startswith("ix: sound; 17 items, 8 files, ")
    assert open_index("ix").number_of(IDS[15]) == 25


def test_json(capsys):
    assert answer(capsys, "build", "a", "b", "ix") == {"index": "ix", "items": 20, "bits": 64, "model": "m"}
    assert answer(capsys, "add", "ix", "b", "--replace") == {"index": "ix", "added": 10, "replaced": 10}
    assert answer(capsys, "delete", "ix", IDS[0], "é", status=3) == {
        "index": "ix",
        "deleted": 1,
        "unknown": ["é"],
    }
    facts = answer(capsys, "info", "ix")
    assert facts.pop("bytes") > 1000
    assert facts == {
        "index": "ix",
        "items": 19,
        "bits": 64,
        "bit_order": "msb-first",
        "model": "m",
        "searched_by": ["m"],
        "preprocessing": "",
        "generation": 3,
        "columns": {"label": "string", "width": "int64", "tags": "list<string>"},
        "segments": 2,
        "deleted": 1,
        "thumbnails": True,
        "ivf": "none",
    }
    assert answer(capsys, "merge", "ix") == {"index": "ix", "items": 19}
    found = answer(capsys, "verify", "ix")
    assert (found["sound"], found["problems"], found["items"], found["recall"]) == (True, [], 19, None)


def test_info_for_people(capsys):
    kdhash(capsys, "build", "a", "ix")
    status, out, _ = kdhash(capsys, "info", "ix")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
    assert status == 0
    assert (lines["items"], lines["model"], lines["thumbnails"]) == ("10", "m", "yes")
    assert lines["columns"] == "id (string), label (string), width (int64), tags (list<string>)"


def test_the_approximate_index(capsys):
    made = answer(capsys, "build", "a", "ix", "--ivf")["ivf"]
    assert made["recall"] >= 0.99
    assert answer(capsys, "info", "ix")["ivf"] == "current"
    kdhash(capsys, "add", "ix", "b")
    assert answer(capsys, "info", "ix")["ivf"] == "stale"
    assert answer(capsys, "ivf", "ix", "--recall", "1")["recall"] == 1
    assert answer(capsys, "verify", "ix")["recall"] == 1
    assert kdhash(capsys, "ivf", "ix")[1].startswith("ix: 1 of 1 lists are looked at; recall@")


def test_codes_of_other_programs(capsys, tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    assert answer(capsys, "build", "codes.npy", "ix", "--ids", "ids.txt") == {
        "index": "ix",
        "items": 20,
        "bits": 64,
        "model": "",
    }
    np.testing.assert_array_equal(open_index("ix").codes_of(range(20)), codes_of_ids(IDS))
    assert open_index("ix").number_of(IDS[7]) == 7
    assert "none: codes from elsewhere" in kdhash(capsys, "info", "ix")[1]
    assert answer(capsys, "add", "ix", "codes.npy")["added"] == 20
    assert open_index("ix").number_of("7") == 27
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "codes.npy", "ids.txt", "ix"}
    status, _, err = kdhash(capsys, "add", "ix", "a")
    assert status == 2
    assert err.startswith(
        "kdhash: a has model m, ix has none (codes from elsewhere): their codes cannot be compared"
    )


def test_ids_to_delete_from_a_file(capsys, tmp_path, monkeypatch):
    kdhash(capsys, "build", "a", "b", "ix")
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:12]) + "\r\n")
    assert answer(capsys, "delete", "ix", IDS[13], "--ids-file", "ids.txt")["deleted"] == 13
    unknown = [f"no {i}" for i in range(30)]
    (tmp_path / "ids.txt").write_text("\n".join(unknown))
    with open("ids.txt") as file:
        monkeypatch.setattr(sys, "stdin", file)
        status, out, err = kdhash(capsys, "delete", "ix", "--ids-file", "-")
    assert (status, out) == (3, "ix: 0 items deleted\n")
    assert err.splitlines()[0] == "kdhash: 30 ids not there:"
    assert err.splitlines()[-1] == "  and 10 more"
    assert kdhash(capsys, "delete", "ix") == (2, "", "kdhash: no ids; give some, or --ids-file FILE\n")


def test_damage(capsys):
    kdhash(capsys, "build", "a", "ix")
    file = open_index("ix").segments[0].path / "codes.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    status, out, err = kdhash(capsys, "verify", "ix")
    assert status == 2
    assert out.startswith(f"{file} has changed since it was written")
    assert err == "kdhash: ix has 1 problem; bring the files named back from a copy, or build it anew\n"
    assert answer(capsys, "verify", "ix", status=2)["sound"] is False
    file.write_bytes(b"")
    assert kdhash(capsys, "info", "ix")[2].startswith(f"kdhash: {file} is truncated: 0 bytes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "a", "b"], "b is already there; `kdhash index add` adds to it, or remove it first"),
        (
            ["build", "nowhere", "ix"],
            "nowhere is not there; kdhash encode makes a folder of the format kdhash-codes",
        ),
        (["build", "nowhere.npy", "ix"], "nowhere.npy is not there; give a .npy file of codes, or a folder"),
        (["build", "a", "ix", "--ids", "ids.txt"], "--ids and --metadata belong to one .npy file of codes"),
        (["build", "codes.npy", "ix", "--ids", "ids.txt"], "No such file or directory: 'ids.txt'"),
        (["add", "nowhere", "a"], "nowhere is not there; kdhash index build makes"),
        (["add", "a", "b"], "a holds kdhash-codes, expected kdhash-index; kdhash index build makes one"),
        (["merge", "a"], "a holds kdhash-codes, expected kdhash-index"),
        (["info", "nowhere"], "nowhere is not there"),
        (["verify", "a"], "a holds kdhash-codes"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    status, out, err = kdhash(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("kdhash: ")
    assert message in err


def test_a_second_writer_is_refused(capsys, tmp_path):
    kdhash(capsys, "build", "a", "ix")
    with write_lock(tmp_path / "ix"):
        status, _, err = kdhash(capsys, "add", "ix", "b", "--timeout", "0.05")
    assert status == 2
    assert f"ix is being written to by process {os.getpid()}" in err


@pytest.mark.parametrize("action", ["build", "add", "delete", "merge", "verify", "info", "ivf"])
def test_help(capsys, action):
    for arguments, text in (
        (["--help"], action),
        ([action, "--help"], f"example:\n  kdhash index {action} "),
    ):
        with pytest.raises(SystemExit) as end:
            main(["index", *arguments])
        assert end.value.code == 0
        assert text in capsys.readouterr().out


def test_no_command_about_an_index_starts_jax(tmp_path):
    program = (
        "import sys; from kdhash.__main__ import main\n"
        "assert main(['index', 'build', 'a', 'ix']) == 0\n"
        "assert main(['index', 'delete', 'ix', '2019/img 1.jpg']) == 0\n"
        "loaded = {'jax', 'flax', 'numba', 'faiss', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    program = "import kdhash.retrieval.index_cli, sys; assert not {'jax', 'numba', 'faiss', 'pyarrow'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
