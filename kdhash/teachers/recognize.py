"""From the names and shapes in a weight file to the network that they belong to."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdhash.models.backbones import make_backbone
from kdhash.teachers.convert import NameMap, convert, several
from kdhash.teachers.families import FAMILIES
from kdhash.teachers.families.family import Dialect, Family
from kdhash.teachers.preprocessing import Preprocessing, read_preprocessing, read_timm_preprocessing
from kdhash.teachers.sources import Source

HEAD = "params/classifier/"
LISTED = 100  # names in an error


class Network(NamedTuple):
    """A published network and its converted weights."""

    family: str
    arch: str
    sizes: dict[str, Any]
    classes: int | None  # None: the file has no classifier
    variant: str | None  # its published name, where it is one
    dialect: str
    preprocessing: Preprocessing | None  # None: neither the source nor a published network says
    variables: Any


class Misfit(NamedTuple):
    """A network that the weights are not of; the least is the nearest."""

    gaps: int  # names missing and left over
    shapes: int  # that do not fit, where all names do
    text: str


def recognize(
    source: Source,
    state: Mapping[str, np.ndarray],
    *,
    arch: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    variant: str | None = None,
    inputs: str = "pictures",
) -> Network:
    """The network of a state dict: by `arch` and `sizes`, by `variant`, by config.json, or by names and shapes alone.

    `inputs`, 'pictures' or 'tokens', chooses between the towers of a file that holds both.
    Raises ValueError where nothing fits (with the nearest network, its gaps and leftovers) or where several published
    networks fit that differ in their sizes (padding and epsilon are sizes too) or in the preprocessing that they want (then
    name one as `variant`).
    """
    found: list[tuple[Network, NameMap]] = []
    misfits: list[Misfit] = []
    families = [family for family in FAMILIES.values() if family.inputs == inputs]
    for family, candidate, name in _candidates(families, source.config, arch, sizes, variant):
        published = family.variants[name].dialects if name else ()
        for dialect, spoken in family.dialects.items():
            if published and dialect not in published:
                continue
            names = spoken.names(**candidate)
            title = f"{name or family.name} ({dialect})"
            try:
                stripped, missing, extra = _compare(names, spoken, state)
            except ValueError as error:
                misfits.append(Misfit(0, 1, f"{title}: {error}"))
                continue
            if missing or extra:
                misfits.append(Misfit(len(missing) + len(extra), 0, f"{title}: {_gaps(missing, extra)}"))
                continue
            try:
                classes, variables = _fill(family, candidate, names, stripped, title)
            except ValueError as error:
                misfits.append(Misfit(0, str(error).count(" gives shape "), str(error)))
                continue
            network = Network(
                family.name, family.arch, dict(candidate), classes, name, dialect, None, variables
            )
            found.append((network._replace(preprocessing=_preprocessing(source, network)), names))
            break
    if not found:
        raise ValueError(f"{source.path}: the weights fit no known network; nearest is {min(misfits).text}")
    _one_meaning(source, found)
    return found[0][0]


def _one_meaning(source: Source, found: list[tuple[Network, NameMap]]) -> None:
    """Raises ValueError where one file would give different outputs as one or another of the networks that it fits."""
    networks = [network for network, _ in found]
    modules = [
        make_backbone(network.arch, **network.sizes) for network in networks
    ]  # default sizes filled in
    differing = [
        what
        for what, values in (
            ("sizes", modules),
            ("preprocessing", [network.preprocessing for network in networks]),
            ("names", [names for _, names in found]),
        )
        if any(value != values[0] for value in values)
    ]
    if differing:
        raise ValueError(
            f"{source.path} fits {', '.join(str(network.variant) for network in networks)}, which differ in "
            f"{' and '.join(differing)}: name one as 'variant'"
        )


def _candidates(
    families: list[Family],
    config: Mapping[str, Any],
    arch: str | None,
    sizes: Mapping[str, Any] | None,
    variant: str | None,
) -> Iterator[tuple[Family, Mapping[str, Any], str | None]]:
    """(family, sizes, published name) to try, in order."""
    if arch is not None and sizes is not None:
        sharing = [family for family in families if family.arch == arch]
        if not sharing:
            known = ", ".join(sorted({family.arch for family in families}))
            raise ValueError(f"no published weights are read into arch {arch!r}; known are {known}")
        for family in sharing:
            yield family, sizes, _published_name(family, sizes)
        return
    if variant is not None:
        named = [family for family in families if variant in family.variants]
        if not named:
            raise ValueError(
                f"variant {variant!r} is unknown; 'python -m kdhash teachers' lists those that are"
            )
        for family in named:
            yield family, family.variants[variant].sizes, variant
        return
    if "architecture" in config:  # timm's config.json
        exact = str(config["architecture"]).partition(".")[
            0
        ]  # 'resnet50.a1_in1k': the tag names the training
        named = [family for family in families if exact in family.variants]
        if not named:
            raise ValueError(
                f"config.json: architecture {exact!r} is unknown ('python -m kdhash teachers' lists those that are known); "
                "if it is one of them by another name, give that as 'variant', or else its 'arch' and 'sizes'"
            )
        for family in named:
            yield family, family.variants[exact].sizes, exact
        return
    kind = config.get("model_type")
    described = [family for family in families if kind in family.model_types]
    for family in described:
        if family.sizes_from_config is not None:
            sizes = family.sizes_from_config(config)
            yield family, sizes, _published_name(family, sizes)
    if described:
        return
    if kind is not None:
        kinds = sorted({kind for family in families for kind in family.model_types})
        raise ValueError(f"config.json: model_type {kind!r} is unknown; known are {', '.join(kinds)}")
    for family in families:
        for name, member in family.variants.items():
            yield family, member.sizes, name


def _published_name(family: Family, sizes: Mapping[str, Any]) -> str | None:
    """The variant of exactly these sizes, defaults filled in."""

    def complete(given: Mapping[str, Any]) -> Any:
        return make_backbone(family.arch, **given)

    ours = complete(sizes)
    return next((name for name, variant in family.variants.items() if complete(variant.sizes) == ours), None)


def _compare(
    names: NameMap, spoken: Dialect, state: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """The state under the table's names, what it lacks, and what is left over."""
    stripped = spoken.weights(state)
    head, body = set(), set()
    for target, (sources, _) in names.items():
        if target.startswith(HEAD):
            head |= set(several(sources))
        else:
            body |= set(several(sources))
    needed = body | head if head & set(stripped) else body
    return stripped, sorted(needed - set(stripped)), sorted(set(stripped) - needed)


def _fill(
    family: Family,
    sizes: Mapping[str, Any],
    names: NameMap,
    state: dict[str, np.ndarray],
    title: str,
) -> tuple[int | None, Any]:
    head = {target: source for target, source in names.items() if target.startswith(HEAD)}
    biases = [several(source)[0] for target, (source, _) in head.items() if target.endswith("/bias")]
    classes = next((len(state[bias]) for bias in biases if bias in state), None)
    if classes is None:
        names = {target: source for target, source in names.items() if target not in head}
    module = make_backbone(family.arch, classes=classes, **sizes)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), example_input(family)))
    return classes, convert(state, names, template, source=title)


def example_input(family: Family, size: int = 224) -> jax.Array:
    """What a network of `family` takes, in shape: a picture of `size` pixels, or a few token ids."""
    if family.inputs == "tokens":
        return jnp.zeros((1, 8), jnp.int32)
    return jnp.zeros((1, size, size, 3))


def _preprocessing(source: Source, network: Network) -> Preprocessing | None:
    """What the source says, or else the published network's."""
    if source.preprocessor:
        return read_preprocessing(source.preprocessor)
    if "pretrained_cfg" in source.config:
        return read_timm_preprocessing(source.config["pretrained_cfg"])
    if network.variant is None:
        return None
    return FAMILIES[network.family].variants[network.variant].preprocessing


def _gaps(missing: list[str], extra: list[str]) -> str:
    return "; ".join(
        f"{what}: {', '.join(names[:LISTED])}{f' and {len(names) - LISTED} more' if len(names) > LISTED else ''}"
        for what, names in (("missing from the file", missing), ("left over in the file", extra))
        if names
    )
