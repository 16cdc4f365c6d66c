"""From a config entry to a frozen teacher: a pure function, its variables, and an identity."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import safetensors.numpy

from kdhash.models.backbones import make_backbone
from kdhash.teachers.convert import convert
from kdhash.teachers.families import resnet_cifar
from kdhash.teachers.torch_file import read_torch_file

# Architectures whose published PyTorch weights can be read; the others load kdhash's own safetensors.
PYTORCH_NAMES = {"resnet_cifar": lambda sizes: resnet_cifar.names(depth=sizes["depth"])}


class Teacher(NamedTuple):
    """A frozen network. `apply(variables, pictures)` takes float pictures in [0, 1], [batch, h, w, 3], and returns
    {'features': [batch, width], 'logits': [batch, classes]}; the preprocessing is inside."""

    name: str
    apply: Any
    variables: Any
    width: int
    classes: int
    identity: str  # sha256 over the weights file, the architecture and the preprocessing
    parameters: int


def load_teacher(
    name: str, spec: Mapping[str, Any], *, weights_dir: str | Path, image_size: int, classes: int
) -> Teacher:
    """Builds the teacher `name` of a config: spec = {'arch', 'weights', 'sizes', 'mean', 'std'}.

    Raises FileNotFoundError for a missing weights file and ValueError for weights that do not fit.
    """
    path = weights_path(name, spec, weights_dir)
    module = make_backbone(spec["arch"], classes=classes, **spec["sizes"])
    template = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, image_size, image_size, 3)))
    )
    if path.suffix == ".safetensors":
        variables = load_variables(path, template)
    elif spec["arch"] in PYTORCH_NAMES:
        # Counters of training steps are no weights: newer PyTorch writes them, older does not.
        variables = convert(
            {name.removeprefix("module."): w for name, w in read_torch_file(path).items()},
            PYTORCH_NAMES[spec["arch"]](spec["sizes"]),
            template,
            source=str(path),
            ignore=("num_batches_tracked",),
        )
    else:
        raise ValueError(f"teachers.{name}: no reader of {path.suffix} files for arch {spec['arch']!r}")
    mean, std = (jnp.asarray(spec[key], jnp.float32) for key in ("mean", "std"))

    def apply(variables, pictures):
        outputs = module.apply(variables, (pictures - mean) / std, train=False)
        return {"features": outputs["features"], "logits": outputs["logits"]}

    shapes = jax.eval_shape(apply, template, jnp.zeros((1, image_size, image_size, 3)))
    recipe = {key: _plain(spec[key]) for key in ("arch", "sizes", "mean", "std")} | {"size": image_size}
    identity = hashlib.sha256(path.read_bytes())
    identity.update(json.dumps(recipe, sort_keys=True).encode())
    return Teacher(
        name=name,
        apply=apply,
        variables=variables,
        width=shapes["features"].shape[-1],
        classes=shapes["logits"].shape[-1],
        identity=identity.hexdigest(),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    )


def weights_path(name: str, spec: Mapping[str, Any], weights_dir: str | Path) -> Path:
    """The weights file of a config entry: absolute, or inside `weights_dir`. Raises FileNotFoundError with the remedy."""
    path = Path(weights_dir) / spec["weights"]
    if not path.is_file():
        raise FileNotFoundError(
            f"config.teachers.{name}.weights: no file {path}; put {spec['weights']} there, "
            "or set --config.weights_dir to the folder that holds it"
        )
    return path


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
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
