"""Decoded pictures on disk: the same data set, read anew whenever what was kept is not of these files or is damaged."""

import os
import shutil
import time

import numpy as np
import pytest

from kdhash.data import decoded, load_dataset
from kdhash.data.decoded import load_decoded


@pytest.fixture
def read(monkeypatch):
    """How often records were read."""
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return load_dataset(*args, **options)

    monkeypatch.setattr(decoded, "load_dataset", counted)
    return calls


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_second_time_is_the_same_without_reading_records(tiny, tmp_path, read):
    expected = load_dataset("tiny", tiny[0])
    for _ in range(2):
        found = load_decoded("tiny", tiny[0], tmp_path / "kept")
        for field in ("name", "class_names", "splits", "fingerprint"):
            assert getattr(found, field) == getattr(expected, field)
        assert found.ids == list(expected.ids)
        assert type(found.ids[0]) is str
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.labels.dtype == np.int32
        rows = np.arange(42)
        np.testing.assert_array_equal(found.images[rows], expected.images[rows])
    assert len(read) == 1
    assert len(names(tmp_path / "kept")) == 1


def test_other_files_versions_and_sizes_are_read_anew(tiny, tmp_path, read, monkeypatch):
    shutil.copytree(tiny[0], tmp_path / "data")
    kept = tmp_path / "kept"
    load_decoded("tiny", tmp_path / "data", kept)
    assert load_decoded("tiny", tmp_path / "data", kept, image_size=6).images.image_shape == (6, 6, 3)
    assert load_decoded("tiny", tmp_path / "data", kept, image_size=6).images.image_shape == (6, 6, 3)
    assert len(read) == 2
    load_decoded("tiny", tiny[0], kept)  # a copy may differ, whatever its files' times say
    assert len(read) == 3
    record = next(path for path in (tmp_path / "data").rglob("*array_record*"))
    before = record.stat()
    with record.open("r+b") as file:  # the same bytes, and the old time put back
        byte = file.read(1)
        file.seek(0)
        file.write(byte)
    os.utime(record, ns=(before.st_atime_ns, before.st_mtime_ns))
    load_decoded("tiny", tmp_path / "data", kept)
    assert len(read) == 4
    with monkeypatch.context() as patch:
        patch.setattr(decoded.kdhash, "__version__", "9.9")
        load_decoded("tiny", tmp_path / "data", kept)
    assert len(read) == 5
    monkeypatch.setattr(decoded, "CODE", (tmp_path / "changed.py",))
    (tmp_path / "changed.py").write_text("other pixels")
    load_decoded("tiny", tmp_path / "data", kept)
    assert len(read) == 6


def empty(content):
    return b""


def text(content):
    return b"no archive"


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    return (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 1])
        + content[len(content) // 2 + 1 :]
    )


def encrypted(content):
    """As the flag of every member of the archive says."""
    return content.replace(b"PK\1\2\x2d\3\x2d\0\0\0", b"PK\1\2\x2d\3\x2d\0\1\0")


def fewer_pictures(content):
    return content.replace(b"(42, 8, 8, 3)", b"(41, 8, 8, 3)")


@pytest.mark.parametrize("damage", [empty, text, cut, flipped, encrypted, fewer_pictures])
def test_what_is_damaged_is_told_and_replaced(tiny, tmp_path, read, capsys, damage):
    load_decoded("tiny", tiny[0], tmp_path)
    (name,) = names(tmp_path)
    content = (tmp_path / name).read_bytes()
    assert damage(content) != content
    (tmp_path / name).write_bytes(damage(content))
    load_decoded("tiny", tiny[0], tmp_path, write=False)
    assert capsys.readouterr().out == ""  # one process speaks
    read.clear()
    found = load_decoded("tiny", tiny[0], tmp_path)
    assert f"{name} cannot be read" in capsys.readouterr().out
    np.testing.assert_array_equal(
        found.images[np.arange(42)], load_dataset("tiny", tiny[0]).images[np.arange(42)]
    )
    load_decoded("tiny", tiny[0], tmp_path)
    assert len(read) == 1
    assert names(tmp_path) == [name]


def test_what_nobody_reads_any_more_is_removed(tiny, tmp_path, monkeypatch):
    old, young = tmp_path / "tiny-0.a.partial", tmp_path / "tiny-0.b.partial"
    for path, age in ((old, 2 * decoded.ABANDONED_SECONDS), (young, 0)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    (tmp_path / "tiny-notes.npz").write_bytes(b"")  # not ours
    for size in range(6, 6 + decoded.MOST + 2):
        load_decoded("tiny", tiny[0], tmp_path, image_size=size)
    assert len(names(tmp_path)) == decoded.MOST + 2
    assert not old.exists()
    assert young.exists()
    monkeypatch.setattr(decoded, "load_dataset", None)
    load_decoded("tiny", tiny[0], tmp_path, image_size=size)


def test_others_may_read_what_is_kept_and_ids_may_be_anything(tmp_path, write_random):
    write_random(tmp_path / "data", ids=lambda split, number: f"{split}/{number}\0é" + "x" * number)
    expected = load_dataset("tiny", tmp_path / "data")
    before = os.umask(0o022)
    try:
        load_decoded("tiny", tmp_path / "data", tmp_path / "kept")
    finally:
        os.umask(before)
    (path,) = (tmp_path / "kept").iterdir()
    assert path.stat().st_mode & 0o777 == 0o644
    assert load_decoded("tiny", tmp_path / "data", tmp_path / "kept").ids == list(expected.ids)


def test_where_nothing_can_be_written_the_data_are_there_all_the_same(tiny, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert len(load_decoded("tiny", tiny[0], tmp_path / "file" / "kept")) == 42
    assert "cannot be written" in capsys.readouterr().out

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded.np, "savez", full)
    assert len(load_decoded("tiny", tiny[0], tmp_path / "kept")) == 42
    assert "No space left on device" in capsys.readouterr().out
    assert names(tmp_path / "kept") == []


def test_nothing_is_kept_unless_asked_for(tiny, tmp_path):
    load_decoded("tiny", tiny[0], None)
    load_decoded("tiny", tiny[0], tmp_path, write=False)
    load_decoded("digits", None, tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="no data set 'other'"):
        load_decoded("other", tiny[0], tmp_path)
