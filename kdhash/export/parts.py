"""The two halves of a model, pictures and texts, out of a run's row: network, variables, and the trained Flax modules' answer."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from kdhash.data import TextFeatures
from kdhash.export.network import backbone_of
from kdhash.export.workdirs import Row
from kdhash.teachers.preprocessing import Preprocessing
from kdhash.teachers.registry import Teacher, load_teacher
from kdhash.teachers.sources import TOKENIZER_FILES, find_source, hub_folder
from kdhash.teachers.tower_texts import TowerTexts

# What is no backbone in the variables of a network that was trained as a whole.
HEADS = ("head", "hidden", "bits", "regressor", "standardize")


class Part(NamedTuple):
    """One modality: its entry in 'network', its variables, and the run's own network from input to logits."""

    network: dict[str, Any]
    variables: dict[str, Any]
    logits: Callable[[Any], np.ndarray]
    texts: Mapping[str, Path] = {}


def trained_part(
    module: Any, variables: Any, spec: Mapping[str, Any], head: dict[str, Any], output: str, size: int
) -> Part:
    """Of a network that was trained as a whole, from pictures: `module` normalises them, its backbone has Flax's own name."""
    (name,) = set(variables["params"]) - set(HEADS)
    seen = Preprocessing(size=size, mean=tuple(spec["mean"]), std=tuple(spec["std"]))
    network = {
        "backbone": {"arch": spec["arch"], "sizes": sizes(spec), "dtype": "float32"},
        "preprocessing": seen._asdict(),
        "standardize": "none",
        "hidden": _hidden(head),
    }
    backbone = {kind: tree[name] for kind, tree in variables.items() if name in tree}
    apply = jax.jit(lambda pictures: module.apply(variables, pictures)[output])

    def logits(pictures: np.ndarray) -> np.ndarray:
        return np.asarray(apply(pictures.astype(np.float32) / 255))

    return Part(network, {"backbone": backbone, "head": head}, logits)


def load_frozen(row: Row, field: str, kind: str, spec: Mapping[str, Any], weights_dir: str | Path) -> Teacher:
    """The frozen network of an entry, which must be the one that the run read."""
    dtype = row.config["features"].get("dtype", "float32")
    size = row.config["image_size"] or 1
    try:
        frozen = load_teacher(
            kind, spec, weights_dir=weights_dir, image_size=size, classes=None, dtype=dtype, field=field
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} (a workdir keeps no places: give --weights-dir)") from None
    _check_identity(row, kind, "image", frozen.identity, f"{field}.weights")
    return frozen


def _check_identity(row: Row, kind: str, modality: str, identity: str, field: str) -> None:
    said = json.loads(_kept(row, kind, "identity.json").read_text())[modality]
    if said != identity:
        raise ValueError(
            f"{field}: these are not the weights that {row.run} was trained on (another file, or read in another way); "
            "give --weights-dir of those"
        )


def _kept(row: Row, kind: str, name: str) -> Path:
    """A file of workdir/inputs/<kind>."""
    path = row.run / "inputs" / kind / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the run was made by an earlier kdhash, which did not keep it. Start the run again, with the "
            "same config and workdir: it trains nothing anew and only adds the file"
        )
    return path


def frozen_part(
    row: Row, kind: str, frozen: Teacher, head: dict[str, Any], apply: Callable[[np.ndarray], jax.Array]
) -> Part:
    """A frozen network, its features standardised as in training, and a trained head `apply`."""
    scales = safetensors.numpy.load_file(_kept(row, kind, "scales.safetensors"))
    mean, deviation = scales["image_mean"], scales["image_deviation"]
    network = {
        "backbone": frozen.backbone,
        "preprocessing": frozen.preprocessing._asdict(),
        "standardize": "features",
        "hidden": _hidden(head),
    }
    size = frozen.preprocessing.size
    backbone = _bare(network, frozen.variables, jnp.zeros((1, size, size, 3)))
    see = jax.jit(frozen.apply)

    def logits(pictures: np.ndarray) -> np.ndarray:
        features = np.asarray(see(frozen.variables, pictures.astype(np.float32) / 255)["features"])
        return np.asarray(apply((features - mean) / deviation))

    standardize = {"mean": mean, "deviation": deviation}
    return Part(network, {"backbone": backbone, "standardize": standardize, "head": trimmed(head)}, logits)


def words_part(
    row: Row, kind: str, width: int, head: dict[str, Any], apply: Callable[[np.ndarray], jax.Array]
) -> Part:
    folder = row.run / "inputs" / kind / "texts" / "encoder"
    encoder = TextFeatures.load(folder)
    network = {"reads": "words", "width": width, "hidden": _hidden(head)}
    texts = {path.name: path for path in sorted(folder.iterdir())}
    return Part(network, {"head": head}, lambda given: np.asarray(apply(encoder.encode(given))), texts)


def tower_part(
    row: Row,
    kind: str,
    spec: Mapping[str, Any],
    weights_dir: str | Path,
    head: dict[str, Any],
    apply: Callable[[np.ndarray], jax.Array],
) -> Part:
    tower = TowerTexts(kind, spec, weights_dir=weights_dir)
    _check_identity(row, kind, "text", tower.identity, f"config.texts.{kind}.weights")
    network = {
        "reads": "tokens",
        "length": tower.tower.length,
        "backbone": tower.tower.backbone,
        "hidden": _hidden(head),
    }
    backbone = _bare(network, tower.tower.variables, jnp.zeros((1, 2), jnp.int32))
    weights = spec["weights"]
    folder = (
        hub_folder(weights, TOKENIZER_FILES)
        if weights.startswith("hf://")
        else find_source(weights, weights_dir).path
    )
    texts = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    return Part(
        network,
        {"backbone": backbone, "head": head},
        lambda given: np.asarray(apply(tower.encode(given))),
        texts,
    )


def _bare(part: Mapping[str, Any], variables: Any, example: jax.Array) -> Any:
    """A frozen network's variables, less a classifier."""
    wanted = jax.eval_shape(backbone_of(part).init, jax.random.key(0), example)

    def chosen(tree: Any, there: Any) -> Any:
        return (
            {name: chosen(leaf, there[name]) for name, leaf in tree.items()}
            if isinstance(tree, dict)
            else there
        )

    return chosen(wanted, variables)


def trimmed(head: Mapping[str, Any]) -> dict[str, Any]:
    return {name: head[name] for name in ("hidden", "bits") if name in head}


def _hidden(head: Mapping[str, Any]) -> int:
    return len(head["hidden"]["bias"]) if "hidden" in head else 0


def sizes(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A config's network sizes; lists become tuples, as Flax modules need."""
    sizes = spec.get("sizes", {})
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
