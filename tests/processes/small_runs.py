"""Configs of whole runs, as small as they come: --config tests/processes/small_runs.py:brcd.

As a program it starts all of them, one after the other, as one of several processes. Arguments: folders of data and of workdirs,
devices of each process, and the three of kdhash.main.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from tests.experiment.test_run import load_config

METHODS = ("dmth", "brcd", "kdcmh")
NORMAL = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
NETWORKS = ("a", "b")
NETWORK = {"arch": "mlp", "sizes": {"widths": (16,)}, "image_size": 8, **NORMAL}
PAIRS = 240


def get_config(method: str) -> ConfigDict:
    config = {"dmth": _dmth, "brcd": _brcd, "kdcmh": _kdcmh, "pretrain": _pretrain}[method]()
    config.host_devices = 1
    return config.lock()


def _dmth() -> ConfigDict:
    """Two frozen networks, a head that fuses them, a student whose own pictures they see."""
    config = _pretrain()
    del config["pretrain"]
    config.teachers = {name: NETWORK | {"weights": f"{name}.safetensors"} for name in NETWORKS}
    config.student.online = True
    return config


def _pretrain() -> ConfigDict:
    """The same with networks that are trained first."""
    config = load_config("quickstart").unlock()
    config.bits = 16
    config.teachers = {
        name: {"arch": "mlp", "sizes": {"widths": (width,)}, **NORMAL}
        for name, width in (("a", 16), ("b", 8))
    }
    config.teacher.rows, config.teacher.width, config.student.teacher = ("mean",), 64, "mean"
    config.student.rows, config.student.arch, config.student.sizes = ("fused",), "mlp", {"widths": (16,)}
    for part in ("pretrain", "teacher", "student"):
        _short(config[part].schedule)
    config.evaluate.baselines = False
    return config


def _brcd() -> ConfigDict:
    """A head on a frozen network teaches a student that sees pictures and learns by contrast over the whole batch."""
    config = load_config("brcd_scratch").unlock()
    config.dataset, config.protocol, config.validation_per_class = "digits", "holdout", 20
    config.image_size, config.bits = 8, 16
    config.backbones = {
        "teacher": NETWORK | {"weights": "a.safetensors"},
        "student": {"arch": "mlp", "sizes": {"widths": (16,)}, **NORMAL},
    }
    config.features.contrast_views = 2
    config.clusters.count = 3
    config.student.forms.contrast = config.student.forms.brcd  # under this name the report draws no pictures
    config.student.rows = ("contrast",)
    _short(config.hasher.schedule)
    return config


def _kdcmh() -> ConfigDict:
    """Ready features of pictures, words of texts."""
    config = load_config("kdcmh_flickr8k").unlock()
    config.dataset, config.bits, config.seeds, config.image_size = "written", 8, (0,), 8
    config.train, config.validation = 0, 40
    config.student.rows = ("kdcmh",)
    for part in (config.teacher, config.student):
        part.image_hidden = part.text_hidden = 16
    networks = zip(("teacher", "student"), NETWORKS, strict=True)
    config.images = {name: NETWORK | {"weights": f"{network}.safetensors"} for name, network in networks}
    for text in config.texts.values():
        text.words, text.vectors = 20, ""
    _short(config.schedule)
    return config


def _short(schedule: ConfigDict) -> None:
    schedule.epochs, schedule.checkpoint_every_epochs, schedule.warmup_epochs = 2.0, 1.0, 0.0
    schedule.batch_size = 64


def write_data(folder: Path) -> None:
    """The pairs that the config of KDCMH wants, and its network, with random weights."""
    from kdhash.data.prepare_pairs import prepare_pairs

    digits, lines = load_digits(), []
    for i in range(PAIRS):
        picture = np.repeat((digits.images[i] * 15.9).astype(np.uint8)[..., None], 3, axis=2)
        Image.fromarray(picture).save(folder / f"{i}.png")
        name = f"number{digits.target[i]}"
        split = "query" if i < 40 else "database"
        lines.append(
            {"image": f"{i}.png", "captions": [f"the digit {name}"], "labels": [name], "split": split}
        )
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare_pairs(folder / "pairs.jsonl", "written", folder, size=8)
    for seed, name in enumerate(NETWORKS):
        rng = np.random.default_rng(seed)
        shapes = {"Dense_0/kernel": (192, 16), "classifier/kernel": (16, 10), "classifier/bias": (10,)}
        weights = {f"params/{key}": rng.normal(0, 0.1, shape) for key, shape in shapes.items()}
        weights |= {
            f"params/BatchNorm_0/{key}": np.full(16, value) for key, value in (("scale", 1), ("bias", 0))
        }
        weights |= {
            f"batch_stats/BatchNorm_0/{key}": np.full(16, value) for key, value in (("mean", 0), ("var", 1))
        }
        save_file(
            {key: value.astype(np.float32) for key, value in weights.items()}, folder / f"{name}.safetensors"
        )


def no_figures(results, arrays):
    """Instead of `report.page._sections`: figures take longer than all the rest of such a run."""
    return []


def run_all(folder: Path, workdirs: Path) -> None:
    from kdhash.experiment.run import run

    for method in METHODS:
        config = get_config(method)
        config.data_dir = config.weights_dir = str(folder)
        run(config, workdirs / method, command="the command")


if __name__ == "__main__":
    from kdhash import processes
    from kdhash.report import page

    page._sections = no_figures
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("workdirs", type=Path)
    parser.add_argument("devices", type=int)
    parser.add_argument("--coordinator")
    parser.add_argument("--process_count", type=int)
    parser.add_argument("--process_index", type=int)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    processes.start(coordinator=args.coordinator, count=args.process_count, index=args.process_index)
    run_all(args.folder, args.workdirs)
