"""What an export and a model folder refuse: each in one line that names it, and nothing is left behind."""

import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import __main__ as tools
from kdhash.export import load_model, read_model, write
from kdhash.export.check import compare
from kdhash.export.write import export_run
from tests.export.small_runs import write_brcd, write_dmth, write_kdcmh


@pytest.fixture(scope="module")
def exported(dmth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_run(dmth, folder)
    return folder


@pytest.fixture
def model(exported, tmp_path):
    """A copy, to be spoiled."""
    return shutil.copytree(exported, tmp_path / "model")


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["weights.safetensors", "image.stablehlo", "image.onnx"])
@pytest.mark.parametrize("engine", ["jax", "onnx"])
def test_a_changed_file_is_refused_by_name(model, name, engine):
    data = bytearray((model / name).read_bytes())
    data[-1] ^= 1
    (model / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} was changed since it was exported"):
        load_model(model, engine=engine)
    (model / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        load_model(model, engine=engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda facts: facts["network"]["image"]["preprocessing"].update(mean=[0.4] * 3),
            "do not give the model's hash",
        ),
        (lambda facts: facts.update(bits=32), "do not give the model's hash"),
        (lambda facts: facts.update(hash="0" * 64), "do not give the model's hash"),
        (lambda facts: facts.update(version=2), "version 2; this kdhash reads 'kdhash-model', version 1"),
        (lambda facts: facts.pop("searches"), "is damaged"),
        (lambda facts: facts.pop("network"), "is damaged"),
    ],
)
def test_changed_facts_are_refused(model, change, message):
    facts = json.loads((model / "model.json").read_text())
    change(facts)
    (model / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message):
        read_model(model)


def test_what_is_no_model_folder(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        load_model(tmp_path)
    (model / "model.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_model(model)
    with pytest.raises(ValueError, match="choose one of jax, stablehlo, onnx"):
        load_model(model, engine="torch")
    with pytest.raises(ValueError, match="batch_size is 0"):
        load_model(model, batch_size=0)


def test_the_card_may_be_edited(model):
    (model / "README.md").write_text("ours")
    assert load_model(model).bits == 16


def test_a_difference_stops_the_export_and_nothing_is_left_behind(dmth, tmp_path, monkeypatch):
    right = write.picture_codes
    monkeypatch.setattr(
        write, "picture_codes", lambda *given: right(*given) ^ jnp.uint8(1)
    )  # in the programs, not in Flax
    with pytest.raises(
        ValueError, match=r"image\.stablehlo is not the trained network: 128 of 1024 bits differ"
    ):
        export_run(dmth, tmp_path / "model")
    assert left(tmp_path) == []


def test_only_bits_at_the_edge_may_turn():
    logits = np.full((2, 8), 3.0)
    logits[0, :4] = 2e-5, -2e-5, 4e-5, 0.1  # of a largest logit of 3, 3e-5 is the edge
    codes = np.packbits(logits >= 0, axis=1)
    assert compare("x", logits, codes) == {
        "checked": "x",
        "codes": 2,
        "bits": 16,
        "near_zero": 2,
        "turned": 0,
    }
    assert compare("x", logits, codes ^ np.array([[0b11000000], [0]], np.uint8))["turned"] == 2
    with pytest.raises(
        ValueError, match="x is not the trained network: 1 of 16 bits differ, up to a logit of 1.3e-05"
    ):
        compare("x", logits, codes ^ np.array([[0b00100000], [0]], np.uint8))
    assert compare("x", logits, codes ^ np.array([[0b00100000], [0]], np.uint8), "bfloat16")["turned"] == 1


def run_cli(*arguments):
    return tools.main(["export", *map(str, arguments)])


def test_the_command_says_what_it_did(dmth, tmp_path, capsys):
    assert run_cli(dmth, tmp_path / "model", "--row", "plain", "--no-onnx") == 0
    out = capsys.readouterr().out
    facts = read_model(tmp_path / "model")
    assert f"image model {facts.hash[:12]}, 16 bits, pictures of 8 x 8" in out
    assert "image.stablehlo, 64 pictures of the data set: 1,024 bits, equal" in out
    assert "image.onnx left out: it was not asked for" in out
    with pytest.raises(ValueError, match=r"no image\.onnx: it was not asked for"):
        load_model(tmp_path / "model", engine="onnx")
    assert run_cli(dmth, tmp_path / "again", "--no-onnx", "--json") == 0
    assert json.loads(capsys.readouterr().out)["facts"]["row"] == "fused"
    card = (tmp_path / "again" / "README.md").read_text()
    for part in (
        "| mAP@all | 0.5000 |",
        "Protocol `holdout` of `digits`",
        "16 bits, training seed 0. A note.",
        'load_model("again")',
    ):
        assert part in card
    assert "map@100_min" not in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--row", "attention"],
            "has no finished row 'attention'; there are: fused, plain (teachers of a DMTH run",
        ),
        (["--seed", "7"], "has no seed 7; there are 0"),
        (["--data-dir", "nowhere", "--row", "none"], "has no finished row 'none'"),
    ],
)
def test_a_row_that_is_not_there(dmth, tmp_path, capsys, arguments, message):
    assert run_cli(dmth, tmp_path / "model", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kdhash: ")
    assert message in line
    assert left(tmp_path) == []


def test_a_folder_that_is_there_and_one_that_is_no_run(dmth, exported, tmp_path, capsys):
    assert run_cli(dmth, exported) == 2
    assert f"{exported} already exists; remove it first" in capsys.readouterr().err
    assert run_cli(tmp_path, tmp_path / "model") == 2
    assert "is no workdir of a run: it has no config.json" in capsys.readouterr().err


def test_frozen_weights_must_be_those_of_the_run(brcd, weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"backbones\.student\.weights: no file.*give --weights-dir"):
        export_run(brcd, tmp_path / "model", weights_dir=tmp_path)
    shutil.copy(weights / "teacher.safetensors", tmp_path)
    data = bytearray((weights / "student.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "student.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="these are not the weights that .* was trained on"):
        export_run(brcd, tmp_path / "model", weights_dir=tmp_path)


@pytest.mark.parametrize("name", ["scales.safetensors", "identity.json"])
def test_an_older_workdir_says_how_to_mend_it(tmp_path, weights, name):
    run = write_brcd(tmp_path / "run", weights)
    (run / "inputs" / "student" / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{name} is missing.*Start the run again.*only adds the file"
    ):
        export_run(run, tmp_path / "model", weights_dir=weights)


def test_ready_features_are_no_model_of_pictures(tmp_path, weights):
    run = write_kdcmh(tmp_path / "run", weights, ready=True)
    with pytest.raises(ValueError, match="config.images is empty"):
        export_run(run, tmp_path / "model", weights_dir=weights)


def test_a_size_that_the_config_does_not_tell(tmp_path):
    run = write_dmth(tmp_path / "run")
    config = json.loads((run / "config.json").read_text()) | {"image_size": 0}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="give --image-size"):
        export_run(run, tmp_path / "model")
    assert export_run(run, tmp_path / "model", image_size=8, onnx=False).size == 8


def test_without_the_extra_onnx_files_are_left_out(dmth, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    facts = export_run(dmth, tmp_path / "model")
    assert "pip install 'kdhash[onnx]'" in facts.document["left_out"]["image.onnx"]
    with pytest.raises(ImportError, match=r"pip install 'kdhash\[onnx\]'"):
        export_run(dmth, tmp_path / "other", onnx=True)
    assert left(tmp_path) == ["model"]
