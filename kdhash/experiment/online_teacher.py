"""A head and its frozen networks as one function of pictures, instead of on cached features."""

from collections.abc import Callable
from typing import Any

import jax

from kdhash.experiment.context import Run
from kdhash.experiment.teacher import Cached, Head, load_teachers, token_name
from kdhash.methods.dmth import fusion_outputs
from kdhash.teachers.registry import Teacher
from kdhash.teachers.views import recipe_of

Answer = Callable[[jax.Array], dict[str, jax.Array]]


def head_on_pictures(
    run: Run, teachers: dict[str, Teacher], head: Head, features: dict[str, Cached]
) -> Callable[[dict[str, Any], jax.Array], dict[str, jax.Array]]:
    """outputs(variables of its networks by name, pictures) -> {'codes' [batch, bits], 'fused', 'logits', 'attention'} for float
    pictures in [0, 1], [batch, h, w, 3]. The networks run on each picture, and on its mirror image where the head sees both.
    Raises ValueError for a head that sees other views, which are drawn by a picture's row."""
    seen = head.views if len(head.views) > 1 else ("original",)
    if drawn := [view for view in seen if recipe_of(view)]:
        raise ValueError(f"the head {head.name!r} sees {', '.join(drawn)}, which single pictures do not have")

    def outputs(networks: dict[str, Any], pictures: jax.Array) -> dict[str, jax.Array]:
        tokens = {}
        for place, view in enumerate(seen):
            shown = pictures[:, :, ::-1] if view == "flip" else pictures
            for name in head.members:
                found = teachers[name].apply(networks[name], shown)["features"]
                tokens[token_name(name, place)] = (found - features[name].mean) / features[name].std
        return fusion_outputs(
            head.trained.variables, tokens, bits=run.config.bits, classes=run.classes, fusion=head.fusion
        )

    return outputs


def online_answer(run: Run, head: Head, features: dict[str, Cached], wanted: list[str]) -> Answer:
    """answer(pictures) -> {'teacher_codes' [batch, bits], ...}, the outputs `wanted` of `head`, for a student's own pictures:
    cropped, cut out and coloured as it sees them. A cached answer is one to the whole picture.

    The networks compute in `config.dtype`, as the student does, whatever their cached features were computed in. Their weights
    become part of the step's program: hundreds of MB take long to compile.
    """
    teachers = load_teachers(run, run.dtype)
    outputs = head_on_pictures(run, teachers, head, features)
    networks = {name: teachers[name].variables for name in head.members}

    def answer(pictures: jax.Array) -> dict[str, jax.Array]:
        found = outputs(networks, pictures)
        return {f"teacher_{name}": jax.lax.stop_gradient(found[name]) for name in wanted}

    return answer
