"""MIRFLICKR-25K and NUS-WIDE from small folders of their published layouts."""

import argparse

import numpy as np
import pytest
from PIL import Image

from kdhash.data import cli, load_pairs
from kdhash.data.prepare_flickr import prepare_mirflickr25k, prepare_nuswide


def write_picture(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), shade, np.uint8)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers(dest="command"))
    return cli.run(parser.parse_args(["prepare", *map(str, arguments)]))


@pytest.fixture
def mir(tmp_path):
    """Six pictures; 'sky' has 5 of them, 'dog' 3, 'rare' 1."""
    root = tmp_path / "mir"
    tags = ["sky\ndog\n", "sky\nrare\n", "rare2\n", "sky\ndog\nSky\n", "sky\n", "sky\ndog\n"]
    for number, own in enumerate(tags, 1):
        write_picture(root / "mirflickr" / f"im{number}.jpg", 10 * number)
        write(root / f"mirflickr/meta/tags/tags{number}.txt", own)
    notes = root / "mirflickr25k_annotations_v080"
    write(notes / "animals.txt", "1\n3\n4\n")
    write(notes / "animals_r1.txt", "1\n")
    write(notes / "clouds.txt", "1\n2\n5\n")
    write(notes / "README.txt", "notes")
    return root


def test_mirflickr25k(mir, tmp_path):
    report = prepare_mirflickr25k(mir, tmp_path / "data", size=8, min_count=3)
    assert report.label_names == ("animals", "clouds")
    assert report.counts == {"database": 4}  # 3 has no frequent tag, 6 no label
    pairs = load_pairs("mirflickr25k", tmp_path / "data")
    rows = {name: row for row, name in enumerate(pairs.ids)}
    assert set(rows) == {"im1", "im2", "im4", "im5"}
    assert pairs.texts[rows["im1"]] == ("sky dog",)
    assert pairs.texts[rows["im2"]] == ("sky",)
    assert pairs.texts[rows["im4"]] == ("sky dog",)
    assert pairs.labels[[rows["im1"], rows["im2"], rows["im4"]]].tolist() == [
        [True, True],
        [False, True],
        [True, False],
    ]


def test_mirflickr25k_missing(mir, tmp_path, capsys):
    (mir / "mirflickr/im5.jpg").unlink()
    report = prepare_mirflickr25k(mir, tmp_path / "data", size=8, min_count=1)
    assert [(place, name) for place, name, _ in report.skipped] == [("mirflickr/meta/tags/tags5.txt", "im5")]
    with pytest.raises(ValueError, match="MIRFLICKR-25K has both a label and a kept tag"):
        prepare_mirflickr25k(mir, tmp_path / "other", size=8)
    write(mir / "mirflickr25k_annotations_v080/sea.txt", "1\n77\n")
    with pytest.raises(ValueError, match=r"sea.txt line 2: '77' is no number of a picture"):
        prepare_mirflickr25k(mir, tmp_path / "other", size=8)
    assert run("mirflickr25k", "--source", tmp_path / "none", "--data-dir", tmp_path / "other") == 1
    assert "none is missing: the folder that holds the published data" in capsys.readouterr().err
    write(tmp_path / "empty/im1.jpg", "")
    with pytest.raises(FileNotFoundError, match=r"empty/meta/tags is missing"):
        prepare_mirflickr25k(tmp_path / "empty", tmp_path / "other")


TAGS = ["sky", "dog", "sea"]
ROWS = [  # place, labels of animal, sky, zebra, tags
    ("actor\\0001_11.jpg", "110", "100"),
    ("actor\\0002_12.jpg", "010", "110"),
    ("zoo\\0001_13.jpg", "001", "010"),  # only of the rarest label
    ("zoo\\0002_14.jpg", "100", "000"),  # no kept tag
    ("zoo\\0003_15.jpg", "111", "001"),
]


@pytest.fixture
def nus(tmp_path):
    root = tmp_path / "nus"
    write(root / "ImageList/Imagelist.txt", "".join(f"{place}\n" for place, _, _ in ROWS))
    for shade, (place, _, _) in enumerate(ROWS):
        write_picture(root / "Flickr" / place.replace("\\", "/"), 20 * shade)
    for column, label in enumerate(("animal", "sky", "zebra")):
        lines = "".join(f"{labels[column]}\n" for _, labels, _ in ROWS)
        write(root / f"Groundtruth/AllLabels/Labels_{label}.txt", lines)
    write(root / "NUS_WID_Tags/TagList1k.txt", "\n".join(TAGS) + "\n")
    write(root / "NUS_WID_Tags/AllTags1k.txt", "".join("\t".join(tags) + "\t\n" for _, _, tags in ROWS))
    lines = []
    for place, _, tags in ROWS:
        own = [tag for tag, value in zip(TAGS, tags, strict=True) if value == "1"]
        lines.append(f"{place[-6:-4]}      {' '.join([*own, 'unkept'])}  \n")
    write(root / "NUS_WID_Tags/All_Tags.txt", "".join(lines))
    return root


def check_nus(report, data_dir):
    assert report.label_names == ("animal", "sky")
    pairs = load_pairs("nuswide10", data_dir)
    rows = {name: row for row, name in enumerate(pairs.ids)}
    assert set(rows) == {"actor/0001_11", "actor/0002_12", "zoo/0003_15"}
    assert pairs.texts[rows["actor/0002_12"]] == ("sky dog",)
    assert pairs.labels[rows["actor/0002_12"]].tolist() == [False, True]
    assert pairs.labels[rows["zoo/0003_15"]].tolist() == [True, True]
    assert (pairs.images[np.array([rows["zoo/0003_15"]])] == 80).all()
    return pairs.fingerprint


def test_nuswide(nus, tmp_path):
    report = prepare_nuswide(nus, tmp_path / "a", size=8, labels=2)
    first = check_nus(report, tmp_path / "a")
    (nus / "NUS_WID_Tags/AllTags1k.txt").unlink()
    report = prepare_nuswide(nus, tmp_path / "b", size=8, labels=2)
    assert check_nus(report, tmp_path / "b") == first


def test_nuswide_by_count_of_tags(nus, tmp_path, capsys):
    (nus / "NUS_WID_Tags/TagList1k.txt").unlink()
    report = prepare_nuswide(nus, tmp_path / "a", size=8, labels=2, tags=1)
    assert report.counts == {"database": 4}
    assert set(load_pairs("nuswide10", tmp_path / "a").texts) == {("unkept",)}
    (nus / "Flickr/zoo/0003_15.jpg").unlink()
    assert run("nuswide", "--source", nus, "--data-dir", tmp_path / "b", "--size", 8) == cli.SOME_LEFT_OUT
    out = capsys.readouterr().out
    assert "note: published results have 186,577 pairs" in out
    assert "left out 1 rows" in out
    assert "Imagelist.txt line 5, zoo/0003_15: no file" in out


def test_nuswide_that_does_not_fit(nus, tmp_path):
    write(nus / "NUS_WID_Tags/AllTags1k.txt", "1 0\n")
    with pytest.raises(ValueError, match=r"AllTags1k.txt line 1: 2 values; TagList1k.txt has 3 tags"):
        prepare_nuswide(nus, tmp_path / "a")
    write(nus / "NUS_WID_Tags/AllTags1k.txt", "1 0 0\n")
    with pytest.raises(ValueError, match=r"AllTags1k.txt has 1 lines; Imagelist.txt has 5 pictures"):
        prepare_nuswide(nus, tmp_path / "a")
    write(nus / "NUS_WID_Tags/AllTags1k.txt", "1 0 0\n" * 6)
    with pytest.raises(ValueError, match=r"AllTags1k.txt has more lines than Imagelist.txt has pictures, 5"):
        prepare_nuswide(nus, tmp_path / "a")
    (nus / "NUS_WID_Tags/AllTags1k.txt").unlink()
    write(nus / "NUS_WID_Tags/All_Tags.txt", "11 sky\n")
    with pytest.raises(ValueError, match=r"All_Tags.txt has no line for 4 pictures, actor/0002_12.jpg first"):
        prepare_nuswide(nus, tmp_path / "a")
    write(nus / "Groundtruth/AllLabels/Labels_sky.txt", "1\n1\n0\n-7\n1\n")
    with pytest.raises(ValueError, match=r"Labels_sky.txt line 4: '-7' is neither 0 nor 1"):
        prepare_nuswide(nus, tmp_path / "a")
    write(nus / "Groundtruth/AllLabels/Labels_sky.txt", "1\n")
    with pytest.raises(ValueError, match=r"Labels_sky.txt has 1 values; Imagelist.txt has 5 pictures"):
        prepare_nuswide(nus, tmp_path / "a")
    (nus / "ImageList/Imagelist.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Imagelist.txt is missing: the list of pictures"):
        prepare_nuswide(nus, tmp_path / "a")
