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
    networks fit that want different preprocessing (then name one as `variant`).
    """
    found, misfits = [], []
    families = [family for family in FAMILIES.values() if family.inputs == inputs]
    for family, candidate, name in _candidates(families, source.config, arch, sizes, variant):
        published = family.variants[name].dialects if name else ()
        for dialect, spoken in family.dialects.items():
            if published and dialect not in published:
                continue
            names = spoken.names(**candidate)
            stripped, missing, extra = _compare(names, spoken, state)
            if missing or extra:
                misfits.append(
                    (len(missing) + len(extra), f"{name or family.name} ({dialect})", missing, extra)
                )
                continue
            try:
                classes, variables = _fill(family, candidate, names, stripped, str(source.path))
            except ValueError as error:
                misfits.append((0, f"{name or family.name} ({dialect})", [str(error)], []))
                continue
            found.append(
                Network(family.name, family.arch, dict(candidate), classes, name, dialect, None, variables)
            )
            break
    if not found:
        raise ValueError(_nothing_fits(source, misfits))
    wanted = {network.variant: _preprocessing(source, network) for network in found}
    if len(set(wanted.values())) > 1:
        several = ", ".join(str(name) for name in wanted)
        raise ValueError(
            f"{source.path} fits {several}, which want different pictures: name one as 'variant'"
        )
    return found[0]._replace(preprocessing=wanted[found[0].variant])


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
    exact = config.get("architecture", "")  # timm's config.json
    for family in families:
        if exact in family.variants:
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
    if kind is not None and "architecture" not in config:
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
    where: str,
) -> tuple[int | None, Any]:
    head = {target: source for target, source in names.items() if target.startswith(HEAD)}
    biases = [several(source)[0] for target, (source, _) in head.items() if target.endswith("/bias")]
    classes = next((len(state[bias]) for bias in biases if bias in state), None)
    if classes is None:
        names = {target: source for target, source in names.items() if target not in head}
    module = make_backbone(family.arch, classes=classes, **sizes)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), example_input(family)))
    return classes, convert(state, names, template, source=where)


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


def _nothing_fits(source: Source, misfits: list[tuple[int, str, list[str], list[str]]]) -> str:
    _, name, missing, extra = min(misfits)
    parts = [
        f"{what}: {', '.join(names[:LISTED])}{f' and {len(names) - LISTED} more' if len(names) > LISTED else ''}"
        for what, names in (("missing from the file", missing), ("left over in the file", extra))
        if names
    ]
    return f"{source.path}: the weights fit no known network; nearest is {name}: {'; '.join(parts)}"
