"""From a config entry to a frozen teacher: a pure function, its variables, and an identity."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import safetensors.numpy

from kdhash.models.backbones import make_backbone
from kdhash.teachers.convert import convert
from kdhash.teachers.preprocessing import INTERPOLATIONS, Preprocessing, preprocess
from kdhash.teachers.recognize import Network, recognize
from kdhash.teachers.sources import Source, find_source, read_state, weights_hash

# What a config entry of a teacher may hold; all but 'weights' may be left out where the weights say it themselves.
FIELDS = ("weights", "variant", "arch", "sizes", "image_size", "interpolation", "mean", "std")
DTYPES = ("float32", "bfloat16")  # that a network may compute in

CLASSIFIER = "params/classifier/bias"


class Teacher(NamedTuple):
    """A frozen network. `apply(variables, pictures)` takes float pictures in [0, 1], [batch, h, w, 3], and returns
    {'features': [batch, width]}, and 'logits' [batch, classes] where it has a classifier; the preprocessing is inside."""

    name: str
    apply: Any
    variables: Any
    width: int
    classes: int | None
    identity: (
        str  # sha256 over the weights, the architecture, the preprocessing, and the dtype where not float32
    )
    parameters: int
    preprocessing: Preprocessing
    backbone: dict[str, Any]  # 'arch', 'sizes' and 'dtype' of the network inside `apply`


class TextTeacher(NamedTuple):
    """A frozen text tower. `apply(variables, ids)` takes token ids [batch, tokens] (see `tokenizer.load_tokenizer`), at
    most `length` a text, and returns {'features': [batch, width]}."""

    name: str
    apply: Any
    variables: Any
    width: int
    length: int
    identity: str  # sha256 over the weights and the architecture
    parameters: int
    backbone: dict[str, Any]


def load_teacher(
    name: str,
    spec: Mapping[str, Any],
    *,
    weights_dir: str | Path = "",
    image_size: int,
    classes: int | None,
    dtype: str = "float32",
    field: str = "",
) -> Teacher:
    """Builds the teacher `name` of a config entry, which holds 'weights' and any of the other FIELDS. Errors name the entry
    `field`, config.teachers.<name> where it is not given.

    A published network's file says all else itself. kdhash's own files need 'arch' and 'sizes', 'mean' and 'std';
    `image_size` and `classes`, those of the data set, are theirs (None: as many classes as the file has). A given
    'image_size' is what the network then sees of a whole picture, without a cut. With `dtype` 'bfloat16' the network
    computes in it; outputs are float32 all the same.
    Raises FileNotFoundError for a missing file, ValueError for weights that do not fit and for fields that make no sense.
    """
    field = field or f"config.teachers.{name}"
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    source = _find(field, spec, FIELDS, weights_dir)
    _check(field, spec)
    network = _read(field, spec, source, image_size, classes)
    wanted = _overridden(field, spec, network.preprocessing)
    module = make_backbone(network.arch, classes=network.classes, dtype=jnp.dtype(dtype), **network.sizes)

    def apply(variables, pictures):
        outputs = module.apply(variables, preprocess(pictures, wanted), train=False)
        return {key: outputs[key].astype(jnp.float32) for key in ("features", "logits") if key in outputs}

    shapes = jax.eval_shape(apply, network.variables, jnp.zeros((1, image_size, image_size, 3)))
    recipe = {"arch": network.arch, "sizes": network.sizes, "preprocessing": wanted.recipe()}
    if dtype != "float32":
        recipe["dtype"] = dtype
    return Teacher(
        name=name,
        apply=apply,
        variables=network.variables,
        width=shapes["features"].shape[-1],
        classes=network.classes,
        identity=_identity(source, recipe),
        parameters=_count(network.variables),
        preprocessing=wanted,
        backbone={"arch": network.arch, "sizes": network.sizes, "dtype": dtype},
    )


def load_text_teacher(
    name: str, spec: Mapping[str, Any], *, weights_dir: str | Path = "", field: str = ""
) -> TextTeacher:
    """The text tower of a source, given as {'weights': ...} and, where it fits several, 'variant'. Errors name the entry
    `field`, config.teachers.<name> where it is not given.

    Raises FileNotFoundError for a missing file, ValueError for weights that are no known text tower's.
    """
    field = field or f"config.teachers.{name}"
    source = _find(field, spec, ("weights", "variant"), weights_dir)
    network = recognize(source, read_state(source), variant=spec.get("variant"), inputs="tokens")
    module = make_backbone(network.arch, **network.sizes)

    def apply(variables, ids):
        return {"features": module.apply(variables, ids)["features"]}

    shapes = jax.eval_shape(apply, network.variables, jnp.zeros((1, 2), jnp.int32))
    return TextTeacher(
        name=name,
        apply=apply,
        variables=network.variables,
        width=shapes["features"].shape[-1],
        length=module.length,
        identity=_identity(source, {"arch": network.arch, "sizes": network.sizes}),
        parameters=_count(network.variables),
        backbone={"arch": network.arch, "sizes": network.sizes, "dtype": "float32"},
    )


def _find(field: str, spec: Mapping[str, Any], fields: tuple[str, ...], weights_dir: str | Path) -> Source:
    unknown = sorted(set(spec) - set(fields))
    if unknown:
        raise ValueError(f"{field} has {', '.join(unknown)}; it may have {', '.join(fields)}")
    weights = spec.get("weights")
    if not isinstance(weights, str) or not weights:
        raise ValueError(f"{field}.weights is {weights!r}; name a weight file or folder, or hf://owner/name")
    try:
        return find_source(weights, weights_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{field}.weights: {error}") from None


def _check(entry: str, spec: Mapping[str, Any]) -> None:
    """Raises ValueError naming a field that makes no sense."""

    def need(field: str, good: bool, wanted: str) -> None:
        if not good:
            raise ValueError(f"{entry}.{field} is {spec.get(field)!r}; {wanted}")

    def numbers(value: Any) -> bool:
        return (
            isinstance(value, (list, tuple))
            and len(value) == 3
            and all(isinstance(number, (int, float)) and math.isfinite(number) for number in value)
        )

    for field, other in (("arch", "sizes"), ("sizes", "arch")):
        alone = spec.get(field) is None and spec.get(other) is not None
        need(field, not alone, f"give it beside {other!r}, or neither of them for a published network")
    size = spec.get("image_size", 1)
    need("image_size", isinstance(size, int) and size > 0, "give the network's pixels a side, such as 224")
    for field in ("mean", "std"):
        given = spec.get(field, (1, 1, 1))
        need(field, numbers(given), "give three numbers, one for each of red, green and blue")
    need("std", min(spec.get("std", (1,))) > 0, "pictures are divided by it: give three numbers above 0")
    interpolation = spec.get("interpolation", "bilinear")
    need("interpolation", interpolation in INTERPOLATIONS, f"choose one of {', '.join(INTERPOLATIONS)}")


def _identity(source: Source, recipe: Mapping[str, Any]) -> str:
    digest = weights_hash(source)
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    return digest.hexdigest()


def _count(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _read(
    field: str, spec: Mapping[str, Any], source: Source, image_size: int, classes: int | None
) -> Network:
    """The network of a source: one of kdhash's own, whose tensors are called 'params/...', or a published one."""
    state = read_state(source)
    arch, sizes = spec.get("arch"), spec.get("sizes")
    plain = None if sizes is None else {key: _plain(value) for key, value in sizes.items()}
    if not any(tensor.startswith("params/") for tensor in state):
        return recognize(source, state, arch=arch, sizes=plain, variant=spec.get("variant"))
    if arch is None or plain is None:
        raise ValueError(f"{field}: {source.path} is one of kdhash's own files, so give 'arch' and 'sizes'")
    if classes is None and CLASSIFIER in state:
        classes = len(state[CLASSIFIER])
    module = make_backbone(arch, classes=classes, **plain)
    template = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, image_size, image_size, 3)))
    )
    names = {path: (path, "keep") for path, _ in _flat(template)}
    variables = convert(state, names, template, source=str(source.path))
    return Network(arch, arch, plain, classes, None, "kdhash", Preprocessing(size=image_size), variables)


def _overridden(field: str, spec: Mapping[str, Any], published: Preprocessing | None) -> Preprocessing:
    """The preprocessing with what the config entry says instead."""
    changes: dict[str, Any] = {key: tuple(spec[key]) for key in ("mean", "std") if key in spec}
    if "interpolation" in spec:
        changes["interpolation"] = spec["interpolation"]
    if "image_size" in spec:
        changes |= {"size": spec["image_size"], "resize": None}
    missing = {"mean", "std", "size"} - set(changes)
    if published is None and missing:
        raise ValueError(
            f"{field}: nothing says what pictures these weights want; give mean, std and image_size"
        )
    return (published or Preprocessing())._replace(**changes)


def save_variables(path: str | Path, variables: Any) -> None:
    """Writes Flax variables as safetensors, tensors named 'params/block/kernel'; by a temporary name, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    safetensors.numpy.save_file({name: jax.device_get(leaf) for name, leaf in _flat(variables)}, temporary)
    os.replace(temporary, path)


def load_variables(path: str | Path, template: Any) -> Any:
    """Reads what `save_variables` wrote into the tree of `template`. Raises ValueError listing gaps and leftovers."""
    state = safetensors.numpy.load_file(path)
    names = {name: (name, "keep") for name, _ in _flat(template)}
    return convert(state, names, template, source=str(path))


def _flat(tree: Any) -> list[tuple[str, Any]]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [("/".join(key.key for key in path), leaf) for path, leaf in paths]


def _plain(value: Any) -> Any:
    """A ConfigDict or tuple as what JSON can hold."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value
