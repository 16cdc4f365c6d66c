"""What a hasher of a BRCD run reads: cached features of a frozen network, or pictures, and then it is trained as a whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from kdhash.data import subset
from kdhash.experiment.context import Run, keep_inputs, mean_and_deviation, sizes_of
from kdhash.experiment.teacher import cached_views
from kdhash.teachers.registry import Teacher, load_teacher
from kdhash.teachers.views import numbered_views

KIND = "contrast"  # the recipe of augmented views
Rows = np.ndarray


class Inputs(NamedTuple):
    """Training pictures are counted by their place in the protocol's training rows, their augmented views from 1."""

    frozen: Teacher | None  # None: the whole network is trained
    model: dict[str, Any]  # what `Hasher` must know beside bits and widths
    identity: dict[str, Any]
    original: Callable[[Rows], np.ndarray]  # rows of the data set -> inputs of the network
    view: Callable[[int, Rows], np.ndarray]  # number of the view, places -> inputs of the network
    batch: Callable[[Rows], dict[str, np.ndarray]]  # places -> raw batch, from which `choose_views` draws


def open_inputs(run: Run, name: str) -> Inputs:
    """Those of config.backbones.<name>: with 'weights' a frozen network, with 'arch' one to train from scratch."""
    spec = run.config.backbones[name]
    return _features(run, name) if "weights" in spec else _pictures(run, name)


def _features(run: Run, name: str) -> Inputs:
    config = run.config
    views = tuple(f"{KIND}{i + 1}" for i in range(config.features.contrast_views))
    teacher = load_teacher(
        name,
        config.backbones[name].to_dict(),
        weights_dir=config.weights_dir,
        image_size=config.image_size,
        classes=run.classes,
        dtype=config.features.dtype,
        field=f"config.backbones.{name}",
    )
    plain, seconds = cached_views(run, teacher, run.dataset, ("original",))
    seen, more = cached_views(run, teacher, subset(run.dataset, run.protocol.train), views)
    run.seconds["features"] = run.seconds.get("features", 0.0) + seconds + more
    original = plain["original"]["features"]
    mean, std = mean_and_deviation(original[run.protocol.train])
    keep_inputs(run, name, {"image_mean": mean, "image_deviation": std}, {"image": teacher.identity})
    original = (original - mean) / std
    stacked = np.stack([(seen[view]["features"] - mean) / std for view in views], axis=1)
    return Inputs(
        frozen=teacher,
        model={},
        identity={"frozen": teacher.identity},
        original=lambda rows: original[rows],
        view=lambda number, places: stacked[places, number - 1],
        batch=lambda places: {"views": stacked[places]},
    )


def _pictures(run: Run, name: str) -> Inputs:
    spec = run.config.backbones[name]
    model = {
        "arch": spec.arch,
        "sizes": tuple(sizes_of(spec.sizes).items()),
        "mean": tuple(spec.mean),
        "std": tuple(spec.std),
    }
    images, train = run.dataset.images, run.protocol.train
    make = jax.jit(numbered_views, static_argnums=0)
    return Inputs(
        frozen=None,
        model=model,
        identity={"trained": model},
        original=run.pictures,
        view=lambda number, places: np.asarray(
            make(KIND, np.full(len(places), number), places, images[train[places]])
        ),
        batch=lambda places: {"image": images[train[places]], "place": places},
    )


def choose_views(count: int) -> Callable[[jax.Array, dict[str, Any]], dict[str, Any]]:
    """What happens to a raw batch inside the jitted step: two different ones of each item's `count` views, drawn anew.

    'views' [batch, count, ...] becomes 'view_i' and 'view_j', 'views_x' becomes 'x_i' and 'x_j'. Of an 'image' both views are
    made, those of its 'place': the pixels that a frozen network saw when its features were cached.
    """

    def draw(key):
        first, second = jax.random.split(key)
        i = jax.random.randint(first, (), 0, count)
        return i, (i + jax.random.randint(second, (), 1, count)) % count

    def choose(keys: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        numbers = dict(zip("ij", jax.vmap(draw)(keys), strict=True))
        chosen = {}
        for name, values in batch.items():
            if name == "image":
                for view, number in numbers.items():
                    chosen[f"view_{view}"] = numbered_views(KIND, number + 1, batch["place"], values)
            elif name.startswith("views"):
                short = "view" if name == "views" else name.removeprefix("views_")
                for view, number in numbers.items():
                    chosen[f"{short}_{view}"] = jax.vmap(lambda value, at: value[at])(values, number)
            elif name != "place":
                chosen[name] = values
        return chosen

    return choose
