"""The student of a run's row, rebuilt: what it is in plain JSON, its arrays, and the trained Flax network to compare with."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float, UInt8

from kdhash.export.model import (
    FORMAT,
    IMAGE,
    IMAGE_TEXT,
    VERSION,
    arrays_sha256,
    model_hash,
    preprocessing_hash,
    texts_sha256,
)
from kdhash.export.network import flattened
from kdhash.export.parts import (
    Part,
    frozen_part,
    load_frozen,
    sizes,
    tower_part,
    trained_part,
    trimmed,
    words_part,
)
from kdhash.export.workdirs import TEACHER, Row, find_row
from kdhash.models.hasher import Hasher
from kdhash.models.student import HashStudent
from kdhash.models.two_towers import TwoTowers
from kdhash.teachers.registry import load_variables

ALIGNED = ("brcd", "kl", "crd")  # kinds of BRCD forms that make the student's bits those of its teacher
PICTURE = {"fit": "shorter side resized to size, centre cut out", "filter": "bicubic, antialiased"}


class Student(NamedTuple):
    """What a model folder is written from."""

    document: dict[str, Any]  # model.json, less what is known only of written files
    arrays: dict[str, np.ndarray]  # weights.safetensors
    texts: Mapping[str, Path]  # files of texts/, by name
    picture_logits: Callable[[UInt8[np.ndarray, "n size size 3"]], Float[np.ndarray, "n bits"]]
    text_logits: Callable[[Sequence[str]], Float[np.ndarray, "n bits"]] | None


def read_student(
    run: str | Path,
    *,
    row: str | None = None,
    seed: int | None = None,
    weights_dir: str | Path = "weights",
    image_size: int | None = None,
    alone: bool = False,
) -> Student:
    """The row `row` (see `workdirs.find_row`) of a DMTH, BRCD or KDCMH run.

    Frozen networks of BRCD and KDCMH runs are read from `weights_dir`, the teacher's too where the student's queries may
    search its codes, unless `alone`. `image_size` is needed only where the config has 0.
    Raises FileNotFoundError for what is missing, and ValueError for rows that are not there and weights that are not the run's.
    """
    found = find_row(run, row, seed)
    size = found.config["image_size"] or image_size
    if found.config["method"] == "kdcmh" and "images" not in found.config:
        raise ValueError(
            f"{found.run}: config.images is empty: the data came with ready features of pictures, and this model cannot "
            "make them of other pictures; export a run that has config.images"
        )
    if not size:
        raise ValueError(
            f"{found.run}: config.image_size is 0, the data set's own size, which a workdir does not tell; give --image-size"
        )
    read = {"dmth": _dmth, "brcd": _brcd, "kdcmh": _kdcmh}[found.config["method"]]
    student = read(found, size, weights_dir)
    if not alone and (teacher := _taught_by(found)):
        its_hash = read(teacher, size, weights_dir).document["hash"]
        student.document["searches"].append(its_hash)
    return student


def _taught_by(row: Row) -> Row | None:
    """The BRCD teacher whose codes the row's bits are aligned with, if any."""
    if row.config["method"] != "brcd" or row.name == TEACHER:
        return None
    name = "brcd" if row.name.startswith("brcd_margin_") else row.name  # the study of masks trains this form
    kind = row.config["student"]["forms"][name]["kind"]
    return find_row(row.run, TEACHER, row.seed) if kind in ALIGNED else None


def _dmth(row: Row, size: int, weights_dir: str | Path) -> Student:
    config = row.config["student"]
    state = safetensors.numpy.load_file(row.weights)
    regressor = state.get("params/regressor/bias", ())
    student = HashStudent(
        config["arch"],
        sizes(config),
        row.config["bits"],
        len(state["params/head/classifier/bias"]),
        tuple(config["mean"]),
        tuple(config["std"]),
        regress_to=len(regressor),
    )
    variables = load_variables(row.weights, _template(student, size))
    head = {"bits": variables["params"]["head"]["hash"]}
    part = trained_part(student, variables, config, head, "unbounded", size)
    learned = {} if row.name == "plain" else row.config["teachers"]
    return _student(row, size, part, None, learned_from=_named(learned))


def _brcd(row: Row, size: int, weights_dir: str | Path) -> Student:
    kind = TEACHER if row.name == TEACHER else "student"
    spec = row.config["backbones"][kind]
    hidden = row.config["hasher"]["teacher_hidden"] if kind == TEACHER else row.config["student"]["hidden"]
    regressor = safetensors.numpy.load_file(row.weights).get("params/regressor/bias", ())
    common = {"bits": row.config["bits"], "hidden": hidden, "regress_to": len(regressor)}
    learned = {} if row.name in (TEACHER, "none") else {TEACHER: row.config["backbones"][TEACHER]}
    if "weights" not in spec:
        hasher = Hasher(
            **common,
            arch=spec["arch"],
            sizes=tuple(sizes(spec).items()),
            mean=tuple(spec["mean"]),
            std=tuple(spec["std"]),
        )
        variables = load_variables(row.weights, _template(hasher, size))
        head = trimmed(variables["params"])
        part = trained_part(hasher, variables, spec, head, "logits", size)
        part.network["standardize"] = "batch_norm"
        part.variables["standardize"] = variables["batch_stats"]["standardize"]
        return _student(row, size, part, None, learned_from=_named(learned))
    hasher = Hasher(**common)
    frozen = load_frozen(row, f"config.backbones.{kind}", kind, spec, weights_dir)
    template = jax.eval_shape(hasher.init, jax.random.key(0), jnp.zeros((1, frozen.width)))
    variables = load_variables(row.weights, template)
    apply = jax.jit(lambda features: hasher.apply(variables, features)["logits"])
    part = frozen_part(row, kind, frozen, variables["params"], apply)
    return _student(
        row, size, part, None, learned_from=_named({kind: spec} | learned), frozen=[spec["weights"]]
    )


def _kdcmh(row: Row, size: int, weights_dir: str | Path) -> Student:
    kind = TEACHER if row.name == TEACHER else "student"
    config = row.config[kind]
    spec, text_spec = row.config["images"][kind], row.config["texts"][kind]
    frozen = load_frozen(row, f"config.images.{kind}", kind, spec, weights_dir)
    state = safetensors.numpy.load_file(row.weights)
    hidden = config["text_hidden"]
    text_width = len(state[f"params/text/{'hidden' if hidden else 'bits'}/kernel"])
    model = TwoTowers(row.config["bits"], config["image_hidden"], hidden)
    example = jnp.zeros((1, frozen.width)), jnp.zeros((1, text_width))
    variables = load_variables(row.weights, jax.eval_shape(model.init, jax.random.key(0), *example))

    def apply(modality: str) -> Callable[[np.ndarray], jax.Array]:
        return jax.jit(lambda seen: model.apply(variables, **{modality: seen})[f"{modality}_logits"])

    image = frozen_part(row, kind, frozen, variables["params"]["image"], apply("image"))
    head = variables["params"]["text"]
    if "weights" in text_spec:
        text = tower_part(row, kind, text_spec, weights_dir, head, apply("text"))
    else:
        text = words_part(row, kind, text_width, head, apply("text"))
    specs = {"images": spec, "texts": text_spec}
    if row.name != TEACHER:
        specs |= {f"teacher's {part}": row.config[part][TEACHER] for part in ("images", "texts")}
    weights = [one["weights"] for one in (spec, text_spec) if "weights" in one]
    return _student(row, size, image, text, learned_from=_named(specs), frozen=weights)


def _student(
    row: Row,
    size: int,
    image: Part,
    text: Part | None,
    *,
    learned_from: list[str],
    frozen: Sequence[str] = (),
) -> Student:
    parts = {"image": image} | ({"text": text} if text else {})
    arrays = flattened({name: part.variables for name, part in parts.items()})
    contents = {"weights": arrays_sha256(arrays)}
    texts = text.texts if text else {}
    if texts:
        contents["texts"] = texts_sha256(texts)
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": IMAGE_TEXT if text else IMAGE,
        "bits": row.config["bits"],
        "bit_order": "msb-first",
        "picture": {"size": size, **PICTURE},
        "network": {name: part.network for name, part in parts.items()},
        "contents": contents,
    }
    document = json.loads(
        json.dumps(document)
    )  # as a reader will see it: the hash must not tell tuples from lists
    document["hash"] = model_hash(document)
    document["preprocessing"] = preprocessing_hash(document)
    document["searches"] = [document["hash"]]
    document["facts"] = row.facts | {
        "parameters": sum(array.size for name, array in arrays.items() if "/batch_stats/" not in name),
        "learned_from": learned_from,
        "frozen": list(frozen),
    }
    return Student(document, arrays, texts, image.logits, text.logits if text else None)


def _template(module: Any, size: int) -> Any:
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def _named(specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What entries of a config were made from, for the model card."""
    found = []
    for name, spec in specs.items():
        for what in ("weights", "vectors"):
            if spec.get(what):
                found.append(f"{name}: {spec[what]}")
        if "weights" not in spec and "arch" in spec:
            found.append(f"{name}: {spec['arch']}, trained by the run itself")
    return found
