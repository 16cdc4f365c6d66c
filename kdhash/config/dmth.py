"""What a DMTH config can have wrong."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from kdhash.config.fields import (
    batch_problems,
    number_problems,
    remat_problems,
    row_problems,
    schedule_problems,
    weights_problems,
)
from kdhash.methods.dmth import CROSS_ENTROPY, OBJECTIVES
from kdhash.models.backbones import BACKBONES
from kdhash.teachers.views import PICTURE_VIEWS, recipe_of

FUSIONS = ("mean", "concat", "attention", "global")
STUDENT_ROWS = ("plain", "best_single", "fused")


def dmth_problems(config: ConfigDict, devices: int) -> Iterator[str]:
    yield from _teacher_problems(config)
    yield from row_problems("teacher", config.teacher.rows, tuple(config.teacher.forms))
    yield from row_problems("student", config.student.rows, STUDENT_ROWS)
    fused = [form for form in config.teacher.forms if not form.startswith("single")]
    if config.student.teacher not in fused:
        yield f"config.student.teacher is {config.student.teacher!r}; choose one of {', '.join(fused)}"
        return
    for name, form in config.teacher.forms.items():
        if form.kind not in FUSIONS:
            yield f"config.teacher.forms.{name}.kind is {form.kind!r}; choose one of {', '.join(FUSIONS)}"
        heads = form.get("heads", 1)
        if not isinstance(heads, int) or heads < 1:
            yield f"config.teacher.forms.{name}.heads is {heads!r}; give a whole number from 1 on"
        elif config.teacher.width % heads:
            yield (
                f"config.teacher.forms.{name}.heads is {heads}, which does not divide "
                f"config.teacher.width, {config.teacher.width}"
            )
    most = max(len(form.views) for form in config.teacher.forms.values())
    if len(config.teacher.validation_views) < most:
        yield (
            f"config.teacher.validation_views has {len(config.teacher.validation_views)} views, "
            f"config.teacher.forms up to {most}; give as many to validate with"
        )
    needed = {"best_single": "single", "fused": config.student.teacher}
    for row, source in needed.items():
        if row in config.student.rows and source not in config.teacher.rows:
            yield f"config.student.rows has {row!r}, which needs {source!r} in config.teacher.rows"
    for view in config.features.views:
        try:
            recipe_of(view)
        except ValueError as error:
            yield f"config.features.views: {error}"
    asked = set(config.student.rows) - {"plain"} and not config.student.get("online", False)
    mirrored = ("flip",) if config.student.augment.flip and asked else ()
    seen = [
        view for row in config.teacher.rows for view in config.teacher.forms.get(row, {"views": ()})["views"]
    ]
    wanted = (*config.teacher.views, *seen, *config.teacher.validation_views, *mirrored)
    for view in dict.fromkeys(("original", *wanted)):
        if view not in config.features.views:
            yield f"config.features.views lacks {view!r}, which is needed; it has {', '.join(config.features.views)}"
    yield from number_problems("config.student", {"temperature": 4.0, **config.student}, ("temperature",))
    yield from _online_problems(config)
    for part in ("teacher", "student"):
        if config[part].objective not in OBJECTIVES:
            yield f"config.{part}.objective is {config[part].objective!r}; choose one of {', '.join(OBJECTIVES)}"
        elif config[part].objective != CROSS_ENTROPY and config.student.weights.get("logits", 0.0):
            yield (
                f"config.student.weights.logits is {config.student.weights.logits}, but config.{part}.objective is "
                f"{config[part].objective!r}, which trains no class probabilities; set it to 0"
            )
    if config.student.arch not in BACKBONES:
        yield f"config.student.arch is {config.student.arch!r}; choose one of {', '.join(sorted(BACKBONES))}"
    trained = [spec.get("arch", "") for spec in config.teachers.values()] if "pretrain" in config else []
    yield from remat_problems(config, [config.student.arch, *trained])
    sizes = {
        "features.batch_size": config.features.batch_size,
        "teacher.schedule.batch_size": config.teacher.schedule.batch_size,
        "student.schedule.batch_size": config.student.schedule.batch_size,
    }
    if "pretrain" in config:
        sizes["pretrain.schedule.batch_size"] = config.pretrain.schedule.batch_size
    yield from batch_problems(sizes, devices)
    for part in ("pretrain", "teacher", "student"):
        if part in config:
            yield from schedule_problems(f"{part}.schedule", config[part].schedule, devices)


def _online_problems(config: ConfigDict) -> Iterator[str]:
    online = config.student.get("online", False)
    if not isinstance(online, bool):
        yield f"config.student.online is {online!r}; give True or False"
        return
    for row, form in {"best_single": "single", "fused": config.student.teacher}.items():
        if online and row in config.student.rows and form in config.teacher.forms:
            views = tuple(config.teacher.forms[form].views)
            if len(views) > 1 and not set(views) <= set(PICTURE_VIEWS):
                yield (
                    f"config.student.online is True, but config.teacher.forms.{form}.views is {views}; of a student's own "
                    f"pictures teachers see {' and '.join(PICTURE_VIEWS)} only"
                )


def _teacher_problems(config: ConfigDict) -> Iterator[str]:
    if len(config.teachers) < 2:
        yield f"config.teachers names {len(config.teachers)}; fusion needs at least two teachers"
    for name, spec in config.teachers.items():
        if name in config.teacher.forms:
            yield f"config.teachers.{name}: the name is taken by a form of fusion; choose another one"
        if "arch" in spec and spec.arch not in BACKBONES:
            yield f"config.teachers.{name}.arch is {spec.arch!r}; choose one of {', '.join(sorted(BACKBONES))}"
        if "pretrain" not in config:
            yield from weights_problems(f"config.teachers.{name}", spec, config.weights_dir)
