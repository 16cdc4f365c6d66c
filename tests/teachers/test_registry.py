"""The real CIFAR ResNets, against the outputs that PyTorch gave."""

import jax
import numpy as np
import pytest

from kdhash.teachers.convert import convert
from kdhash.teachers.registry import load_teacher, load_text_teacher, load_variables, save_variables

FILES = {
    20: "resnet20-12fca82f.th",
    32: "resnet32-d509ac18.th",
    44: "resnet44-014dd654.th",
    56: "resnet56-4bfd9763.th",
}


def spec(depth: int) -> dict:
    return {
        "arch": "resnet_cifar",
        "sizes": {"depth": depth},
        "weights": FILES[depth],
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }


@pytest.mark.parametrize("depth", FILES)
def test_outputs_equal_those_of_pytorch(shared, depth):
    teacher = load_teacher("t", spec(depth), weights_dir=shared / "weights", image_size=32, classes=10)
    with np.load(shared / "weights" / f"resnet{depth}_cifar10.expected.npz") as expected:
        outputs = jax.jit(teacher.apply)(teacher.variables, expected["images"].astype(np.float32) / 255)
        np.testing.assert_allclose(outputs["features"], expected["features"], atol=1e-4)
        np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-4)
    assert (teacher.width, teacher.classes) == (64, 10)


def test_identity_changes_with_preprocessing_and_weights(shared):
    def load(**changes):
        return load_teacher(
            "t", spec(20) | changes, weights_dir=shared / "weights", image_size=32, classes=10
        )

    assert load().identity == load().identity
    assert load().identity != load(mean=(0.5, 0.5, 0.5)).identity


def test_wrong_depth_lists_what_is_left_over_and_missing(shared):
    wrong = spec(20) | {"sizes": {"depth": 26}}
    with pytest.raises(ValueError, match=r"missing from the file: .*layer1\.3\.bn1\.bias"):
        load_teacher("t", wrong, weights_dir=shared / "weights", image_size=32, classes=10)
    wrong = spec(20) | {"sizes": {"depth": 14}}
    with pytest.raises(ValueError, match=r"left over in the file: .*layer3\.2\.conv2\.weight"):
        load_teacher("t", wrong, weights_dir=shared / "weights", image_size=32, classes=10)


def test_missing_file_says_where_to_put_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.teachers\.night\.weights.*weights_dir"):
        load_teacher("night", spec(20), weights_dir=tmp_path, image_size=32, classes=10)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("weights", None, "name a weight file or folder"),
        ("weights", "", "name a weight file or folder"),
        ("image_size", 0, "pixels a side"),
        ("image_size", -32, "pixels a side"),
        ("image_size", 32.5, "pixels a side"),
        ("mean", (0.5,), "three numbers"),
        ("mean", 0.5, "three numbers"),
        ("mean", (0.5, 0.5, "0.5"), "three numbers"),
        ("std", (0.2, 0.2), "three numbers"),
        ("std", (0.2, float("nan"), 0.2), "three numbers"),
        ("std", (0.2, 0.0, 0.2), "above 0"),
        ("interpolation", "cubic", "choose one of nearest"),
        ("arch", None, "beside 'sizes'"),
        ("sizes", None, "beside 'arch'"),
    ],
)
def test_fields_that_make_no_sense_are_named(shared, field, value, wanted):
    wrong = spec(20) | {field: value}
    message = rf"config\.teachers\.night\.{field} is .*{wanted}"
    with pytest.raises(ValueError, match=message):
        load_teacher("night", wrong, weights_dir=shared / "weights", image_size=32, classes=10)
    if value is None:
        del wrong[field]
        with pytest.raises(ValueError, match=message):
            load_teacher("night", wrong, weights_dir=shared / "weights", image_size=32, classes=10)


def test_a_text_teacher_needs_weights_too():
    with pytest.raises(ValueError, match=r"config\.teachers\.words\.weights is None; name"):
        load_text_teacher("words", {})


def test_convert_reports_every_problem_at_once():
    template = {
        "params": {"a": jax.ShapeDtypeStruct((2, 3), np.float32), "b": jax.ShapeDtypeStruct((2,), np.float32)}
    }
    state = {"x": np.zeros((2, 3)), "extra": np.zeros(1)}
    names = {"params/a": ("x", "dense"), "params/c": ("y", "keep")}
    with pytest.raises(ValueError, match="extra") as error:
        convert(state, names, template, source="file.th")
    for word in ("params/b", "params/c", "y", "extra", "(3, 2)"):
        assert word in str(error.value)


def test_saved_variables_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    tree = {"params": {"dense": {"kernel": rng.normal(size=(3, 2)).astype(np.float32)}}, "batch_stats": {}}
    save_variables(tmp_path / "m.safetensors", tree)
    back = load_variables(tmp_path / "m.safetensors", jax.eval_shape(lambda: tree))
    np.testing.assert_array_equal(back["params"]["dense"]["kernel"], tree["params"]["dense"]["kernel"])
