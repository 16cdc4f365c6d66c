"""What a KDCMH config can have wrong; what it cannot do with its data is seen by `kdhash.experiment.check_pairs`."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from kdhash.config.fields import (
    REQUIRED,
    batch_problems,
    form_row_problems,
    number_problems,
    option_problems,
    options_of,
    remat_problems,
    schedule_problems,
    seed_problems,
    share_problems,
)
from kdhash.methods.kdcmh import FITTED, OBJECTIVES, ucch_loss

PAIR_PROTOCOLS = ("pairs", "mirflickr25k", "nuswide10")


def kdcmh_problems(config: ConfigDict, devices: int) -> Iterator[str]:
    if 50 not in config.evaluate.ks:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 50, as the literature's mAP@50 stands beside mAP@all"
    yield from seed_problems(config)
    if config.protocol not in PAIR_PROTOCOLS:
        yield f"config.protocol is {config.protocol!r}; choose one of {', '.join(PAIR_PROTOCOLS)}"
    if config.train < 0:
        yield f"config.train is {config.train}; give how many pairs to train on, or 0 for all that is not validation"
    if config.validation < 1:
        yield f"config.validation is {config.validation}; epochs are chosen on these pairs: hold out some hundreds"
    yield from _input_problems(config)
    yield from share_problems("config.similarity.weights", config.similarity.get("weights"))
    yield from number_problems(
        "config.similarity", config.similarity, ("k_left", "k_right", "l1", "l2", "mu")
    )
    yield from number_problems("config.teacher", config.teacher, ("image_hidden", "text_hidden", "intra"))
    yield from number_problems("config.student", config.student, ("image_hidden", "text_hidden"))
    yield from form_row_problems(config.student, taken=("teacher",))
    for name, form in config.student.forms.items():
        yield from _pair_form_problems(f"config.student.forms.{name}", form)
    sizes = {
        "features.batch_size": config.features.batch_size,
        "schedule.batch_size": config.schedule.batch_size,
    }
    yield from batch_problems(sizes, devices)
    yield from schedule_problems("schedule", config.schedule, devices)
    yield from remat_problems(config)


def _input_problems(config: ConfigDict) -> Iterator[str]:
    """Of what is to read pictures and texts. Whether it is needed, and there, is seen when the data are."""
    for part in ("images", "texts"):
        specs = config[part]
        for name in sorted({"teacher", "student"} ^ set(specs)) if len(specs) else ():
            which = "is unknown" if name in specs else "is missing"
            yield (
                f"config.{part}.{name} {which}; give both 'teacher' and 'student', or neither for data with ready features"
            )
        for name, spec in specs.items():
            field = f"config.{part}.{name}"
            given = spec if isinstance(spec, ConfigDict) else {}
            if "weights" in given or part == "images":
                weights = given.get("weights")
                if not isinstance(weights, str) or not weights:
                    yield f"{field}.weights is {weights!r}; give the file or folder of a frozen network"
            elif not {"words", "vectors"} <= set(given):
                yield f"{field} needs 'words' and 'vectors', or 'weights' of a frozen text tower"
            else:
                yield from number_problems(field, given, ("words",))
                if given["words"] == 0 and not given["vectors"]:
                    yield f"{field}.words is 0; give how many words the vocabulary may hold, or 'vectors'"


def _pair_form_problems(field: str, form: ConfigDict) -> Iterator[str]:
    """What a form holds beside the options of its objective: kdcmh 'pairs', jdsh its shares 'weights'."""
    kind = form.get("kind")
    if kind not in OBJECTIVES:
        yield f"{field}.kind is {kind!r}; choose one of {', '.join(OBJECTIVES)}"
        return
    options = options_of(ucch_loss if kind == "ucch" else OBJECTIVES[kind])
    elsewhere = {"threshold": "it follows from 'pairs'"} if kind == "kdcmh" else {}
    if kind in FITTED:
        elsewhere = dict.fromkeys(("l1", "l2", "mu"), "it is that of config.similarity")
        elsewhere["similarity"] = "it is fitted by the run"
    own = {name: default for name, default in options.items() if name not in elsewhere}
    own |= dict.fromkeys({"kdcmh": ("pairs",), "jdsh": ("weights",)}.get(kind, ()), REQUIRED)
    yield from option_problems(field, form, own, elsewhere)
    if "weights" in own and "weights" in form:
        yield from share_problems(f"{field}.weights", form.weights)
    given = [name for name in form if name in own and name != "weights"]
    numbers = [name for name in given if form[name] is not None or own[name] is not None]
    yield from number_problems(field, form, numbers)
