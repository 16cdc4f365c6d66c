"""Workdirs as finished runs leave them, without the training: weights are random. Real runs are exported in tests/experiment."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from kdhash.data import TextFeatures, load_dataset, make_protocol, save_protocol
from kdhash.experiment.context import keep_inputs
from kdhash.experiment.workdir import claim, finish
from kdhash.models.backbones import make_backbone
from kdhash.models.hasher import Hasher
from kdhash.models.student import HashStudent
from kdhash.models.two_towers import TwoTowers
from kdhash.teachers.registry import load_teacher, save_variables

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXTS = ["a dog runs through snow", "two women and a dog", "a red car in the street", "snow on the street"]
FROM_SCRATCH = {"arch": "convnet", "sizes": {"widths": (8, 8)}, "mean": (0.4,) * 3, "std": (0.3,) * 3}


def load_config(name: str) -> ConfigDict:
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def write_dmth(workdir: Path, *, arch="convnet", sizes=None, image_size=8, bits=16, feature=0.0) -> Path:
    """Rows 'plain' and 'fused', the second one reported."""
    config = load_config("quickstart")
    config.bits, config.image_size = bits, image_size
    config.student.arch, config.student.sizes = arch, ConfigDict(sizes or {"widths": (8, 8)})
    config.student.weights.feature = feature
    _claim(workdir, config)
    for seed, row in enumerate(("plain", "fused")):
        regress_to = 12 if feature and row == "fused" else 0
        student = HashStudent(
            arch,
            config.student.sizes.to_dict(),
            bits,
            10,
            config.student.mean,
            config.student.std,
            regress_to=regress_to,
        )
        pictures = np.zeros((1, image_size, image_size, 3), np.float32)
        _finish(workdir / "student" / row, drawn(student, pictures, seed=seed))
    row = {
        "group": "student",
        "name": "student, taught by attention",
        "metrics": {"map@all": 0.5, "map@100_min": 0.1},
    }
    _report(workdir, [row])
    return workdir


def write_brcd(workdir: Path, weights: Path, *, frozen=True, bits=16, dtype="float32") -> Path:
    """Seeds 3 and 5; rows 'teacher', 'none', 'kl', 'brcd' and 'crd', of which 'brcd' is reported."""
    config = load_config("brcd_cifar10")
    config.dataset, config.protocol, config.image_size, config.bits = "digits", "holdout", 8, bits
    config.seeds, config.hasher.teacher_hidden, config.student.hidden = (3, 5), 24, 0
    config.features.dtype = dtype
    _weights(weights)
    config.backbones = _frozen() if frozen else {"teacher": FROM_SCRATCH, "student": FROM_SCRATCH}
    _claim(workdir, config)
    for kind in ("teacher", "student"):
        if frozen:
            _keep(workdir, kind, weights, config.backbones[kind], dtype)
        for seed in config.seeds:
            for place, row in enumerate(("teacher",) if kind == "teacher" else ("none", "kl", "brcd", "crd")):
                hidden = config.hasher.teacher_hidden if kind == "teacher" else config.student.hidden
                model = Hasher(bits, hidden) if frozen else Hasher(bits, hidden, **_scratch())
                example = np.zeros(
                    (1, 48 if kind == "teacher" else 12) if frozen else (1, 8, 8, 3), np.float32
                )
                _finish(workdir / f"seed{seed}" / row, drawn(model, example, seed=10 * seed + place))
    by_seed = [{"map@1000": 0.3}, {"map@1000": 0.5}]
    _report(workdir, [{"group": "student", "name": "brcd", "seeds": [3, 5], "by_seed": by_seed}])
    return workdir


def write_kdcmh(workdir: Path, weights: Path, *, ready=False, tower="") -> Path:
    """Seed 0; rows 'teacher' and 'kdcmh'. `ready`: of data with ready features. `tower`: the folder of a text tower, with
    features of width 16 and the identity 'tower', that the student reads texts by."""
    config = load_config("kdcmh_flickr8k")
    config.dataset, config.image_size, config.bits, config.seeds = "pairs", 8, 16, (0,)
    _weights(weights)
    config.images = {} if ready else _frozen()
    config.teacher.image_hidden = config.teacher.text_hidden = 24
    config.student.image_hidden, config.student.text_hidden = 0, 24
    if tower:
        config.texts.student = ConfigDict({"weights": tower})
    _claim(workdir, config)
    for kind, row in (("teacher", "teacher"), ("student", "kdcmh")):
        encoder = TextFeatures.fit(TEXTS, size=8 if kind == "teacher" else 5)
        encoder.save(workdir / "inputs" / kind / "texts" / "encoder")
        if not ready:
            _keep(workdir, kind, weights, config.images[kind])
        text_width = 16 if tower and kind == "student" else encoder.width
        model = TwoTowers(16, config[kind].image_hidden, config[kind].text_hidden)
        example = (
            np.zeros((1, width), np.float32) for width in (48 if kind == "teacher" else 12, text_width)
        )
        _finish(workdir / "seed0" / row, drawn(model, *example, seed=7))
    return workdir


def _claim(workdir: Path, config: ConfigDict) -> None:
    claim(workdir, config)
    protocol = make_protocol("holdout", load_dataset("digits", None), seed=0, validation_per_class=20)
    save_protocol(protocol, workdir / "protocol")


def drawn(module: Any, *example: np.ndarray, seed: int) -> Any:
    """Random variables, statistics of batch norm too."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *example)
    draw = np.random.default_rng(seed)

    def leaf(path, shape):
        if path[-1].key == "kernel":
            values = draw.normal(0, 2 / np.sqrt(np.prod(shape.shape[:-1])), shape.shape)
        elif path[-1].key in ("var", "scale"):
            values = draw.uniform(0.3, 1.5, shape.shape)
        else:
            values = draw.normal(0, 0.1, shape.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _finish(folder: Path, variables: Any) -> None:
    save_variables(folder / "model.safetensors", variables)
    finish(folder, "inputs", {"validation": 0.25, "seconds": 1.0})


def _report(workdir: Path, rows: list[dict]) -> None:
    (workdir / "report").mkdir()
    (workdir / "report" / "results.json").write_text(json.dumps({"rows": rows, "labels_note": "A note."}))


def _frozen() -> dict[str, dict]:
    """The teacher's network enlarges pictures on the device, the student's is a small MobileNet."""
    normal = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return {
        "teacher": normal
        | {
            "weights": "teacher.safetensors",
            "arch": "convnet",
            "sizes": {"widths": (48, 48)},
            "image_size": 12,
            "interpolation": "bicubic",
        },
        "student": normal
        | {
            "weights": "student.safetensors",
            "arch": "convnet",
            "sizes": {"widths": (12, 12)},
            "image_size": 8,
        },
    }


def _scratch() -> dict:
    return FROM_SCRATCH | {"sizes": tuple(FROM_SCRATCH["sizes"].items())}


def _weights(folder: Path) -> None:
    """Weight files of kdhash's own networks, one with a classifier."""
    for seed, (name, classes) in enumerate((("teacher", 10), ("student", None))):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            spec = _frozen()[name]
            net = make_backbone(spec["arch"], classes=classes, **spec["sizes"])
            pictures = np.zeros((1, spec["image_size"], spec["image_size"], 3), np.float32)
            save_variables(path, drawn(net, pictures, seed=seed))


def _keep(workdir: Path, kind: str, weights: Path, spec: ConfigDict, dtype: str = "float32") -> None:
    """What a run keeps of a frozen network's features."""
    teacher = load_teacher(kind, spec.to_dict(), weights_dir=weights, image_size=8, classes=None, dtype=dtype)
    draw = np.random.default_rng(len(kind))
    mean, deviation = draw.normal(size=(2, teacher.width)).astype(np.float32)
    scales = {"image_mean": mean, "image_deviation": np.abs(deviation) + np.float32(0.5)}
    identity = {"image": teacher.identity, "text": "tower"}
    keep_inputs(SimpleNamespace(workdir=workdir), kind, scales, identity)
