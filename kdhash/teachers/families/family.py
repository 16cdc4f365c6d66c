"""What the library must know of a family of published networks to read their weights."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdhash.teachers.convert import NameMap
from kdhash.teachers.preprocessing import Preprocessing

Sizes = Mapping[str, Any]  # fields of the Flax module, such as {'depth': 20}; what JSON can hold


class Dialect(NamedTuple):
    """How one source of weights names them."""

    # names(**sizes) -> the table of every variable; the head's are those under 'params/classifier/'.
    names: Callable[..., NameMap]
    # In front of all source names but the head's; files of headless models leave it out ('resnet.').
    prefix: str = ""
    # Endings of source names that are no weights of this network (say why beside each).
    ignore: tuple[str, ...] = ()
    # Beginnings of source names that are another network in the same file, such as a text tower.
    others: tuple[str, ...] = ()

    def weights(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a state dict that belong to this network, under the names of its table. Raises ValueError where a file
        holds a weight with the prefix and without it."""
        own = [name for name in state if not name.startswith(self.others) and not name.endswith(self.ignore)]
        weights = {name.removeprefix(self.prefix): state[name] for name in own}
        if len(weights) < len(own):
            twice = ", ".join(name for name in weights if name in own and f"{self.prefix}{name}" in own)
            raise ValueError(
                f"the file holds {twice} with the prefix {self.prefix!r} and without it; keep one of each"
            )
        return weights


class Variant(NamedTuple):
    """One published network."""

    sizes: Sizes
    preprocessing: Preprocessing
    dialects: tuple[str, ...] = ()  # in which its weights are published; empty: in all of the family's


class Family(NamedTuple):
    """Variants by published name ('resnet50'); dialects by source ('torchvision', 'timm', 'huggingface')."""

    arch: str  # the module's name in models.backbones.BACKBONES
    reference: str  # paper
    variants: Mapping[str, Variant]
    dialects: Mapping[str, Dialect]
    title: str = ""  # where several families share a module; else that of `arch`
    inputs: str = "pictures"  # or "tokens"
    # Hugging Face config.json: its model_type, and the sizes that it describes.
    model_types: tuple[str, ...] = ()
    sizes_from_config: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return self.title or self.arch


def norm_names(target: str, source: str) -> dict[str, tuple[str, str]]:
    """The four arrays of a batch norm: Flax 'params/<target>/scale' from '<source>.weight', and so on."""
    return {
        f"params/{target}/scale": (f"{source}.weight", "keep"),
        f"params/{target}/bias": (f"{source}.bias", "keep"),
        f"batch_stats/{target}/mean": (f"{source}.running_mean", "keep"),
        f"batch_stats/{target}/var": (f"{source}.running_var", "keep"),
    }


def dense_names(target: str, source: str | tuple[str, ...], joint: str = ".") -> dict[str, tuple[Any, str]]:
    """Kernel and bias of a dense layer; of several layers side by side where several sources are given."""

    def named(ending: str) -> str | tuple[str, ...]:
        if isinstance(source, str):
            return f"{source}{joint}{ending}"
        return tuple(f"{name}{joint}{ending}" for name in source)

    return {
        f"params/{target}/kernel": (named("weight"), "dense"),
        f"params/{target}/bias": (named("bias"), "keep"),
    }


def flat_dense_names(target: str, source: str) -> dict[str, tuple[str, str]]:
    """Kernel and bias of a dense layer that the source may keep as a 1x1 convolution."""
    return {
        f"params/{target}/kernel": (f"{source}.weight", "flat_dense"),
        f"params/{target}/bias": (f"{source}.bias", "keep"),
    }


def layer_norm_names(target: str, source: str) -> dict[str, tuple[str, str]]:
    """Scale and bias of a layer norm."""
    return {
        f"params/{target}/scale": (f"{source}.weight", "keep"),
        f"params/{target}/bias": (f"{source}.bias", "keep"),
    }


def conv_names(target: str, source: str) -> dict[str, tuple[str, str]]:
    """Kernel and bias of a convolution with bias."""
    return {
        f"params/{target}/kernel": (f"{source}.weight", "conv"),
        f"params/{target}/bias": (f"{source}.bias", "keep"),
    }


def conv_norm_names(target: str, conv: str, norm: str) -> dict[str, tuple[str, str]]:
    """A `models.blocks.ConvNorm`: convolution without bias, batch norm."""
    return {
        f"params/{target}/conv/kernel": (f"{conv}.weight", "conv"),
        **norm_names(f"{target}/norm", norm),
    }
