"""The network of a model folder as pure functions: uint8 pictures, or what is read of texts, to packed codes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped, UInt8

from kdhash.export.model import WEIGHTS_FILE, Encoders, Facts
from kdhash.models.backbones import make_backbone
from kdhash.teachers.preprocessing import Preprocessing, preprocess

Network = Mapping[str, Any]  # 'network' of model.json: plain JSON
Variables = Mapping[str, Any]


def picture_codes(
    network: Network, variables: Variables, pictures: UInt8[Array, "batch size size 3"]
) -> UInt8[Array, "batch bytes"]:
    """Packed codes of RGB pictures of the model's size."""
    return pack(picture_logits(network, variables, pictures))


def text_codes(
    network: Network, variables: Variables, inputs: Shaped[Array, "batch width"]
) -> UInt8[Array, "batch bytes"]:
    """Packed codes of features [batch, width] of words, or of token ids [batch, tokens]."""
    return pack(text_logits(network, variables, inputs))


def picture_logits(
    network: Network, variables: Variables, pictures: UInt8[Array, "batch size size 3"]
) -> Float[Array, "batch bits"]:
    """Real numbers whose signs are the bits; sums in full float32 on every device, so that codes are those of a CPU."""
    image, own = network["image"], variables["image"]
    with jax.default_matmul_precision("highest"):
        seen = preprocess(pictures.astype(jnp.float32) / 255, preprocessing_of(image))
        features = backbone_of(image).apply(own["backbone"], seen, train=False)["features"]
        return _head(own["head"], _standardized(image, own, features.astype(jnp.float32)))


def text_logits(
    network: Network, variables: Variables, inputs: Shaped[Array, "batch width"]
) -> Float[Array, "batch bits"]:
    """As `picture_logits`. A tower's features are brought to length 1; those of words are."""
    text, own = network["text"], variables["text"]
    with jax.default_matmul_precision("highest"):
        features = inputs
        if text["reads"] == "tokens":
            features = backbone_of(text).apply(own["backbone"], inputs)["features"]
            features = features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return _head(own["head"], features)


def pack(logits: Float[Array, "batch bits"]) -> UInt8[Array, "batch bytes"]:
    """Signs as `np.packbits` packs them: 1 for >= 0, most significant bit first."""
    batch, bits = logits.shape
    by_byte = (logits >= 0).astype(jnp.int32).reshape(batch, bits // 8, 8)
    return (by_byte * jnp.asarray([128, 64, 32, 16, 8, 4, 2, 1])).sum(axis=2).astype(jnp.uint8)


def _standardized(image: Network, variables: Variables, features: Array) -> Array:
    if image["standardize"] == "batch_norm":  # without scale and bias, as `models.Hasher` has it
        norm = nn.BatchNorm(use_running_average=True, use_scale=False, use_bias=False)
        return norm.apply({"batch_stats": variables["standardize"]}, features)
    if image["standardize"] == "features":
        scales = variables["standardize"]
        return (features - scales["mean"]) / scales["deviation"]
    return features


def _head(variables: Variables, features: Array) -> Array:
    if "hidden" in variables:
        features = nn.relu(_dense(variables["hidden"], features))
    return _dense(variables["bits"], features)


def _dense(variables: Variables, x: Array) -> Array:
    return nn.Dense(variables["kernel"].shape[1]).apply({"params": variables}, x)


def backbone_of(part: Network) -> nn.Module:
    """The Flax module of network.image or network.text."""
    backbone = part["backbone"]
    dtype = jnp.dtype(backbone["dtype"])
    return make_backbone(backbone["arch"], dtype=dtype, **_tuples(backbone["sizes"]))


def preprocessing_of(image: Network) -> Preprocessing:
    """What the network does to pictures first."""
    return Preprocessing(**_tuples(image["preprocessing"]))


def _tuples(value: Any) -> Any:
    """Lists as tuples, as Flax modules need."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'image/head/bits/kernel': array} as a tree of dicts."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """What `nested` undoes."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}/")
        else:
            # converted weights are transposed views, which safetensors would write in their memory's order
            flat[prefix + name] = np.asarray(value, order="C")
    return flat


def open_network(facts: Facts) -> Encoders:
    """The engine 'jax': full batches over all local devices, smaller ones on the first."""
    network = facts.document["network"]
    variables = nested(safetensors.numpy.load_file(facts.folder / WEIGHTS_FILE))
    devices = jax.local_devices()
    mesh = Mesh(np.asarray(devices), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    first = jax.device_put(variables, devices[0]) if len(devices) > 1 else everywhere

    def encoder(codes: Callable[..., Array]) -> Callable[[np.ndarray], np.ndarray]:
        apply = jax.jit(partial(codes, network))

        def encode(batch: np.ndarray) -> np.ndarray:
            if len(batch) % len(devices) or len(devices) == 1:
                return np.asarray(apply(first, batch))
            return np.asarray(apply(everywhere, jax.device_put(batch, spread)))

        return encode

    return Encoders(encoder(picture_codes), encoder(text_codes) if "text" in network else None, padded=True)
