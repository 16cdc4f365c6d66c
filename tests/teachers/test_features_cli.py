"""The command `features`: what it prints, what it leaves, and one line for each mistake."""

import json

import numpy as np
import pytest
from PIL import Image

from kdhash.__main__ import main
from kdhash.teachers import cache
from kdhash.teachers.features_cli import _Progress, teacher_name


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for number, side in enumerate([(32, 32), (40, 60), (70, 33)]):
        Image.fromarray(rng.integers(0, 255, (*side, 3), dtype=np.uint8)).save(
            tmp_path / "files" / f"{number}.png"
        )
    (tmp_path / "files" / "1b.png").write_bytes(b"damaged")
    return tmp_path / "files"


def run(files, tmp_path, *more, teacher="resnet20-12fca82f.th", weights=""):
    arguments = ["--data", str(files), "--teacher", teacher, "--weights-dir", str(weights)]
    return main(["features", *arguments, "--cache", str(tmp_path / "cache"), "--batch-size", "8", *more])


def test_features_of_a_folder_of_pictures(shared, files, tmp_path, capsys):
    assert run(files, tmp_path, "--views", "original", "flip", weights=shared / "weights") == 0
    told = capsys.readouterr().out
    folders = sorted((tmp_path / "cache").iterdir())
    assert [folder.name.rsplit("-", 1)[0] for folder in folders] == [
        "resnet20-12fca82f-flip",
        "resnet20-12fca82f-original",
    ]
    assert all(str(folder) in told for folder in folders)
    assert "4/4 pictures" in told
    assert "left out 1b.png: " in told
    assert f"({folders[1].name}, {folders[0].name})" in told
    assert "not all networks" not in told
    for folder in folders:
        assert cache.read(folder)["features"].shape == (3, 64)
        assert (folder / "rows.txt").read_text() == "0.png\n1.png\n2.png\n"
    assert run(files, tmp_path, weights=shared / "weights") == 0
    assert "there already, verified" in capsys.readouterr().out
    assert run(files, tmp_path, "--on-error", "fail", weights=shared / "weights") == 1
    assert "1b.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--views", "sideways"), "no view is called 'sideways'"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--dtype", "float16"), "dtype is 'float16'; choose one of float32, bfloat16"),
        (("--teacher", "nowhere.pth"), "nowhere.pth"),
        (("--data", "nowhere"), "no folder nowhere"),
        (("--process-index", "1"), "--coordinator, --process-count and --process-index together"),
        (
            ("--coordinator", "x:1", "--process-count", "2", "--process-index", "2"),
            "--process-index is 2 of 2",
        ),
    ],
)
def test_mistakes_are_one_line(shared, files, tmp_path, capsys, more, message):
    assert run(files, tmp_path, *more, weights=shared / "weights") == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_networks_that_leave_out_different_files_are_told_of(shared, files, tmp_path, capsys):
    """A strip that one network's resize makes too long, and another's squash does not."""
    Image.new("RGB", (30000, 10)).save(files / "strip.png")
    entry = {"weights": "squeezenet1_0.pth"}
    squashed = json.dumps(entry | {"image_size": 64})
    more = ("--teacher", squashed, "--batch-size", "2")
    assert run(files, tmp_path, *more, teacher="squeezenet1_0.pth", weights=shared / "weights") == 0
    told = capsys.readouterr().out
    assert "left out strip.png: " in told
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert "not all networks left out the same files" in told


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ('{"weights": ', "no JSON"),
        ('{"variant": "resnet50"}', 'it lacks "weights"'),
        ('{"weights": "squeezenet1_0.pth", "varient": "x"}', "it may have weights, variant"),
    ],
)
def test_entries_as_json_that_are_none(shared, files, tmp_path, capsys, teacher, message):
    assert run(files, tmp_path, teacher=teacher, weights=shared / "weights") == 1
    assert message in capsys.readouterr().err


def test_names_of_teachers():
    assert teacher_name("weights/resnet50-0676ba61.pth") == "resnet50-0676ba61"
    assert teacher_name("hf://timm/vit_base.augreg@main") == "timm-vit_base.augreg-main"
    assert teacher_name("/models/mobilenet_v2_1.0_224/") == "mobilenet_v2_1.0_224"


def test_progress_tells_the_rate_of_what_was_computed_now():
    said: list[str] = []
    progress = _Progress("net", said.append)
    progress("original", 600, 1000, 0.1)  # done by the run before
    progress("original", 800, 1000, 2.1)
    assert said == []
    progress.said -= 10
    progress("original", 900, 1000, 3.1)
    progress("original", 1000, 1000, 4.1)
    assert said == [
        "net original: 900/1,000 pictures  100.0/s  1 s left",
        "net original: 1,000/1,000 pictures  100.0/s  0 s left",
    ]
