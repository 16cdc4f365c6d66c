"""Encoding pictures: what is written, what is not done twice, what is left out, what a kill leaves."""

import io
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdhash.export import pictures_ahead
from kdhash.export.encode import encode, update_index
from kdhash.export.encode_rows import Settings
from kdhash.export.encode_sources import fetch, open_source
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import open_items
from kdhash.retrieval.write_index import build_index
from tests.export.stand_in import StandIn, contents, write_picture, write_pictures

SETTINGS = Settings(batch_size=4, workers=2)


@pytest.fixture
def model():
    return StandIn()


@pytest.fixture
def photos(tmp_path):
    write_pictures(tmp_path / "photos", 10)
    return tmp_path / "photos"


def run(model, source, out, **more):
    model.batches.clear()
    options = {"batch_size": 4, "workers": 2, **more}
    return encode(model, open_source(source), out, Settings(**options))


def counts(report):
    return report.encoded, report.recognized, report.unchanged, report.removed


def test_a_folder_of_pictures(model, photos, tmp_path):
    (photos / "cats" / "broken.png").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture either")
    names = sorted(str(path.relative_to(photos)) for path in photos.glob("*/0*"))
    report = run(model, photos, tmp_path / "codes")
    assert (report.count, counts(report)) == (10, (10, 0, 0, 0))
    assert set(model.batches) == {4}  # the last is padded: one program is compiled
    items = open_items(tmp_path / "codes")
    rows = items.table.to_pylist()
    assert [row["id"] for row in rows] == names
    expected = model.encode_pictures(np.stack([model.fit(photos / name) for name in names]))
    assert np.array_equal(items.codes, expected)
    for place, row in enumerate(rows):
        file = photos / row["id"]
        assert (row["bytes"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
        with Image.open(file) as picture:
            assert (row["width"], row["height"]) == picture.size
        thumb = Image.open(io.BytesIO(items.thumbnail(place)))
        assert thumb.format == "JPEG"
        assert max(thumb.size) == min(128, max(row["width"], row["height"]))
    manifest = items.manifest
    assert manifest["source"] == {"kind": "folder", "path": str(photos)}
    assert (manifest["model"], manifest["searched_by"]) == (model.hash, [model.hash])
    assert (manifest["preprocessing"], manifest["thumbnails"]) == (model.preprocessing, 128)
    [(name, reason)] = report.skipped
    assert name == "cats/broken.png"
    assert reason.startswith("no picture in a known format")
    lines = (tmp_path / "codes" / "skipped.tsv").read_text().splitlines()
    assert lines == ["id\treason", f"{name}\t{reason}"]
    assert not (tmp_path / "codes.partial").exists()


def test_a_picture_is_turned_upright_as_for_a_search(model, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    run(model, tmp_path / "turned.jpg", tmp_path / "codes")
    items = open_items(tmp_path / "codes")
    row = items.table.to_pylist()[0]
    assert (row["id"], row["width"], row["height"]) == ("turned.jpg", 20, 40)
    assert np.array_equal(items.codes, model.encode_pictures(model.fit(tmp_path / "turned.jpg")[None]))


def test_only_what_is_new_or_changed_is_encoded_again(model, photos, tmp_path):
    out = tmp_path / "codes"
    run(model, photos, out)
    before = contents(out)
    assert counts(run(model, photos, out)) == (0, 0, 10, 0)
    assert model.batches == []
    assert contents(out) == before

    write_pictures(photos, 2, first=20)  # new
    os.utime(photos / "dogs/000.png", ns=(1, 1))  # touched
    (photos / "birds").mkdir()
    (photos / "cats/001.jpg").rename(photos / "birds/1.jpg")  # moved
    (photos / "cats/003.png").unlink()  # removed
    same = (photos / "dogs/006.png").stat()
    write_picture(photos / "dogs/006.png", 99, (20 + 60, 30))  # changed, and its time set back
    os.utime(photos / "dogs/006.png", ns=(same.st_atime_ns, same.st_mtime_ns))
    assert counts(run(model, photos, out)) == (3, 2, 6, 2)
    shutil.copytree(photos, tmp_path / "fresh", copy_function=shutil.copy2)
    run(model, tmp_path / "fresh", tmp_path / "fresh.codes")
    ours, fresh = open_items(out), open_items(tmp_path / "fresh.codes")
    assert ours.table.equals(fresh.table)
    assert np.array_equal(ours.codes, fresh.codes)
    assert [ours.thumbnail(row) for row in range(11)] == [fresh.thumbnail(row) for row in range(11)]


def test_checksum_finds_a_change_that_size_and_time_do_not_show(model, tmp_path):
    for name, colour in (("a.bmp", "red"), ("b.bmp", "blue")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name)
        os.utime(tmp_path / "photos" / name, ns=(10**18, 10**18))
    run(model, tmp_path / "photos", tmp_path / "codes")
    before = open_items(tmp_path / "codes").codes.copy()
    for first, second in (("a.bmp", "c"), ("b.bmp", "a.bmp"), ("c", "b.bmp")):
        (tmp_path / "photos" / first).rename(tmp_path / "photos" / second)
    assert counts(run(model, tmp_path / "photos", tmp_path / "codes")) == (0, 0, 2, 0)
    assert counts(run(model, tmp_path / "photos", tmp_path / "codes", checksum=True)) == (0, 2, 0, 0)
    assert np.array_equal(open_items(tmp_path / "codes").codes, before[::-1])


def test_killed_at_any_step_it_goes_on_and_ends_in_the_same_bytes(model, tmp_path):
    write_pictures(tmp_path / "pictures", 6)
    run(model, tmp_path / "pictures", tmp_path / "before")
    build_index(tmp_path / "before", tmp_path / "before-index")
    (tmp_path / "pictures/cats/broken.png").write_bytes(b"no picture")
    (tmp_path / "pictures/dogs/000.png").unlink()
    (tmp_path / "pictures/cats/001.jpg").rename(tmp_path / "pictures/moved.jpg")
    write_pictures(tmp_path / "pictures", 9, first=50)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.export.killed_encode", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps = dict(line.split() for line in done.stdout.splitlines())
    assert all(int(steps[case]) > 20 for case in ("new", "again", "index"))


def test_what_a_run_has_done_is_not_done_again(model, photos, tmp_path, monkeypatch):
    def fails(pictures, real=model.encode_pictures):
        if len(model.batches) == 2:
            raise RuntimeError("out of memory")
        return real(pictures)

    monkeypatch.setattr(model, "encode_pictures", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(model, photos, tmp_path / "codes")
    assert not (tmp_path / "codes").exists()
    monkeypatch.undo()
    other = StandIn(seed=1)
    with pytest.raises(ValueError, match=f"begun with model {model.hash}, and this is {other.hash}"):
        run(other, photos, tmp_path / "codes")
    report = run(model, photos, tmp_path / "codes")
    assert (report.resumed, report.encoded, report.count) == (8, 2, 10)
    assert len(model.batches) == 1


def test_two_runs_at_once_are_refused(model, photos, tmp_path):
    def meanwhile(pictures, real=model.encode_pictures):
        with pytest.raises(ValueError, match=r"another kdhash encode is at work on .*codes"):
            encode(StandIn(), open_source(photos), tmp_path / "codes", SETTINGS)
        return real(pictures)

    model.encode_pictures = meanwhile
    assert run(model, photos, tmp_path / "codes").count == 10


def test_files_that_change_meanwhile_are_noticed(model, photos, tmp_path):
    def meanwhile(pictures, real=model.encode_pictures):
        write_picture(photos / "cats/001.jpg", 77)
        return real(pictures)

    encode_pictures, model.encode_pictures = model.encode_pictures, meanwhile
    assert run(model, photos, tmp_path / "codes").changed == 1
    model.encode_pictures = encode_pictures
    assert counts(run(model, photos, tmp_path / "codes")) == (1, 0, 9, 0)


def test_a_file_that_never_stands_still_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "growing.jpg"
    file.write_bytes(b"x")
    real = os.fstat

    def grown(descriptor):
        with file.open("ab") as stream:
            stream.write(b"x")
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", grown)
    with pytest.raises(ValueError, match="changes while it is read"):
        fetch(file)


def test_pictures_are_decoded_only_a_few_batches_ahead(model, photos, monkeypatch):
    write_pictures(photos, 60, first=100)
    read = []
    monkeypatch.setattr(pictures_ahead, "fetch", lambda place: read.append(place) or fetch(place))
    ahead = pictures_ahead.batches_ahead(
        open_source(photos), np.arange(70), size=8, batch_size=4, thumbnails=0, known=lambda _: -1, workers=2
    )
    next(ahead)
    time.sleep(0.3)
    assert len(read) <= (1 + pictures_ahead.AHEAD) * 4
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_index_is_brought_up_to_date(model, photos, tmp_path):
    index = tmp_path / "photos.index"
    run(model, photos, tmp_path / "codes")
    build_index(tmp_path / "codes", index)
    report = update_index(model, open_source(photos), index, SETTINGS)
    assert (counts(report), open_index(index).generation) == ((0, 0, 10, 0), 1)
    write_pictures(photos, 3, first=20)
    os.utime(photos / "dogs/000.png", ns=(1, 1))
    write_picture(photos / "dogs/006.png", 99)
    (photos / "cats/003.png").unlink()
    (photos / "cats/001.jpg").write_bytes(b"damaged")
    report = update_index(model, open_source(photos), index, SETTINGS)
    assert (counts(report), report.gone, report.count) == ((4, 1, 6, 0), 1, 13)
    assert report.skipped_file == tmp_path / "photos.index.skipped.tsv"
    opened = open_index(index)
    assert [segment.count for segment in opened.segments] == [10, 5]  # five rows are written, not thirteen
    assert {"cats/003.png", "cats/001.jpg"} <= set(opened.rows(opened_numbers(opened))["id"].to_pylist())
    report = update_index(model, open_source(photos), index, SETTINGS, delete=True)
    assert (counts(report), report.gone, report.count) == ((0, 0, 11, 1), 0, 12)
    (photos / "cats/001.jpg").unlink()
    update_index(model, open_source(photos), index, SETTINGS, delete=True)
    encode(model, open_source(photos), tmp_path / "fresh", SETTINGS)
    opened, fresh = open_index(index), open_items(tmp_path / "fresh")
    rows = {row["id"]: row for row in opened.rows(opened_numbers(opened)).to_pylist()}
    for place, row in enumerate(fresh.table.to_pylist()):
        mine = rows.pop(row["id"])
        number = mine.pop("number")
        assert mine == row
        assert np.array_equal(opened.codes_of([number])[0], fresh.codes[place])
        assert opened.thumbnail(number) == fresh.thumbnail(place)
    assert not rows


def opened_numbers(index):
    live = [
        segment.numbers if segment.deleted is None else segment.numbers[~segment.deleted]
        for segment in index.segments
    ]
    return np.concatenate(live)


def test_codes_of_another_model_are_refused_with_both_hashes(model, photos, tmp_path):
    run(model, photos, tmp_path / "codes")
    build_index(tmp_path / "codes", tmp_path / "index")
    other = StandIn(seed=1)
    for call in (
        lambda: run(other, photos, tmp_path / "codes"),
        lambda: update_index(other, open_source(photos), tmp_path / "index", SETTINGS),
    ):
        with pytest.raises(ValueError, match=f"{model.hash}.*{other.hash}"):
            call()


def test_thumbnails_of_another_size_need_the_pictures_again(model, photos, tmp_path):
    run(model, photos, tmp_path / "codes", thumbnails=0)
    assert open_items(tmp_path / "codes").thumbnail(0) is None
    assert counts(run(model, photos, tmp_path / "codes")) == (0, 0, 10, 0)  # stays without
    assert counts(run(model, photos, tmp_path / "codes", thumbnails=16)) == (10, 0, 0, 0)
    assert Image.open(io.BytesIO(open_items(tmp_path / "codes").thumbnail(0))).size == (16, 6)
    assert counts(run(model, photos, tmp_path / "codes", thumbnails=0)) == (0, 0, 10, 0)


def test_what_cannot_be_encoded(model, photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder or file nowhere"):
        open_source("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture files"):
        open_source(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="no folder of codes"):
        run(model, photos, photos)
    (tmp_path / "empty" / "a.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"none of 1 pictures can be read; the first: a\.png"):
        run(model, tmp_path / "empty", tmp_path / "codes")
    (photos / "cats" / "000.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"cats/000\.png: .*; remove it, or pass --on-error skip"):
        run(model, photos, tmp_path / "codes", on_error="fail")
    assert not (tmp_path / "codes").exists()
