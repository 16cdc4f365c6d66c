"""What each table is made of: a declared list of runs of the main job."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

SEEDS = (0, 1, 2)
BITS = (16, 32, 64, 128)

# Places as a stranger types them, from the root of a checkout.
WORKDIR, DATA, WEIGHTS, CACHE, RESULTS = (
    "runs/reproduce",
    "data",
    "weights",
    "runs/reproduce/cache",
    "results",
)


class Planned(NamedTuple):
    """One run: a config file of configs/, and the fields that are set on the command line, by their dotted names."""

    group: str  # runs that differ in nothing but their seed
    config: str
    fields: dict[str, Any]
    seed: int | None  # None: the run trains all seeds itself (config.seeds)

    @property
    def name(self) -> str:
        return self.group if self.seed is None else f"{self.group}-seed{self.seed}"

    def flags(self) -> list[str]:
        """--config.a.b=value, as they reach the main job."""
        return [f"--config.{field}={value}" for field, value in self.fields.items()]


class Places(NamedTuple):
    """Where a run reads and writes."""

    workdir: str = WORKDIR
    data_dir: str = DATA
    weights_dir: str = WEIGHTS
    cache_dir: str = CACHE

    def arguments(self, table: str, run: Planned) -> list[str]:
        """Of kdhash.main."""
        return [
            *("--config", f"configs/{run.config}.py", "--workdir", f"{self.workdir}/{table}/{run.name}"),
            f"--config.data_dir={self.data_dir}",
            f"--config.weights_dir={self.weights_dir}",
            f"--config.cache_dir={self.cache_dir}",
            *run.flags(),
        ]


def command(table: str, run: Planned) -> str:
    """The run's command line, as a stranger would type it."""
    return "python -m kdhash.main " + shlex.join(Places().arguments(table, run))


def planned(table: str, seeds: Sequence[int] = SEEDS) -> list[Planned]:
    """The runs of a table. Raises ValueError for a name that is none of TABLES, and for other seeds than SEEDS where a run trains
    all of them: its file would take the place of theirs."""
    if table not in TABLES:
        raise ValueError(f"no table {table!r}; choose from {', '.join(TABLES)}")
    runs = TABLES[table](tuple(sorted(seeds)))
    if sorted(seeds) != list(SEEDS) and any(run.seed is None for run in runs):
        raise ValueError(
            f"--seeds: a run of {table} trains all of {', '.join(map(str, SEEDS))}; for others start kdhash.main with "
            "--config.seeds"
        )
    return runs


def _each_seed(group: str, config: str, fields: dict[str, Any], seeds: Sequence[int]) -> list[Planned]:
    return [Planned(group, config, {**fields, "seed": seed}, seed) for seed in seeds]


# All forms see the picture and its mirror image, except 'single'.
HEADS = ("single", "single_mirrored", "mean_mirrored", "concat_mirrored", "global", "attention")
FUSED = {"teacher.rows": HEADS, "evaluate.baselines": False}
FEW_HEADS = FUSED | {"bits": 64, "teacher.rows": ("single", "attention")}
# At other widths than 64 bits; students take most of the time.
NO_STUDENTS: dict[str, Any] = {"student.rows": ()}
TWO_STUDENTS: dict[str, Any] = {"student.rows": ("plain", "fused")}
# 4,500 training pictures instead of 45,000.
SMALL = {
    "protocol": "cifar10-1",
    "validation_per_class": 50,
    "teacher.schedule.batch_size": 128,
    "teacher.schedule.epochs": 40.0,
    "teacher.schedule.checkpoint_every_epochs": 10.0,
    "student.schedule.batch_size": 64,
    "student.schedule.epochs": 60.0,
    "student.schedule.checkpoint_every_epochs": 10.0,
}
# A student of some size that has time to learn.
LONG = {
    "student.sizes.depth": 20,
    "student.schedule.epochs": 40.0,
    "student.schedule.checkpoint_every_epochs": 10.0,
}


# A student of 100 classes that has time to learn, and learns their probabilities too.
PROBABILITIES = {
    "student.rows": ("plain", "fused"),
    "student.weights.logits": 1.0,
    "student.schedule.epochs": 60.0,
    "student.schedule.checkpoint_every_epochs": 20.0,
}
# The same time, to tell what the probabilities do.
TIME_ALONE = {"student.weights.logits": 0.0, "student.rows": ("fused",)}


def _by_bits(
    prefix: str,
    config: str,
    fields: dict[str, Any],
    seeds: Sequence[int],
    *,
    bits: Sequence[int] = BITS,
    students: dict[str, Any] = NO_STUDENTS,
) -> list[Planned]:
    """All students at 64 bits, `students` at other widths."""
    runs = []
    for count in bits:
        more = {"bits": count} | ({} if count == 64 else students)
        runs += _each_seed(f"{prefix}-{count}bits", config, FUSED | fields | more, seeds)
    return runs


def _dmth_resnets(seeds: Sequence[int]) -> list[Planned]:
    return [
        *_by_bits("cifar10-2", "dmth_cifar10", {}, seeds),
        *_each_seed("cifar10-2-64bits-long", "dmth_cifar10", FEW_HEADS | LONG, seeds),
        *_by_bits("cifar10-1", "dmth_cifar10", SMALL, seeds),
    ]


def _dmth_imagenet(seeds: Sequence[int]) -> list[Planned]:
    cifar10 = {"dataset": "cifar10", "protocol": "cifar10-1", "validation_per_class": 50}
    return [
        *_by_bits("cifar10-1", "dmth_cifar100", cifar10, seeds, students=TWO_STUDENTS),
        *_by_bits("cifar100", "dmth_cifar100", {}, seeds),
        *_each_seed("cifar100-64bits-probabilities", "dmth_cifar100", FEW_HEADS | PROBABILITIES, seeds),
        *_each_seed("cifar100-64bits-time", "dmth_cifar100", FEW_HEADS | PROBABILITIES | TIME_ALONE, seeds),
    ]


def _dmth_mix(seeds: Sequence[int]) -> list[Planned]:
    return _by_bits("cifar10-1", "dmth_mix", {}, seeds, bits=(64,))


def _dmth_beyond(seeds: Sequence[int]) -> list[Planned]:
    """Taught in every step or from cached codes, without transfer, and half as large."""
    runs = []
    for name, fields in BEYOND.items():
        runs += _each_seed(name, "dmth_beyond", fields, seeds)
    return runs


# One view: a tenth of the four teachers' multiply-adds on one picture, 33.2 million; two: on it and its mirror image, 66.4.
CACHED = {"student.online": False, "student.teacher": "attention", "student.schedule.epochs": 200.0}
BEYOND: dict[str, dict[str, Any]] = {
    "two_views": {},
    "two_views-cached": CACHED,
    "two_views-plain": CACHED | {"student.rows": ("plain",)},
    "one_view-cached": CACHED | {"student.sizes.depth": 14, "student.sizes.width": 17},
}


def _brcd(seeds: Sequence[int]) -> list[Planned]:
    def run(group: str, **fields: Any) -> Planned:
        return Planned(group, "brcd_cifar10", {"seeds": tuple(seeds), **fields}, None)

    few = ("none", "brcd", "brcd_no_mask")

    def ablation(group: str, fields: dict[str, Any], rows: tuple[str, ...] = few) -> Planned:
        return run(group, **{"student.rows": rows, "student.margins": ()} | fields)

    # the first of the published program's three slips alone; the row brcd_published has all
    zeros = {"student.forms.brcd.mask": "published"}
    return [
        run("64bits"),
        *(run(f"{bits}bits", bits=bits, **{"student.margins": ()}) for bits in BITS if bits != 64),
        *(ablation(f"clusters{count}", {"clusters.count": count}) for count in (5, 10, 40, 80)),
        *(
            ablation(
                f"alpha{alpha}",
                {f"student.forms.{form}.alpha": alpha for form in ("brcd", "brcd_no_mask")},
            )
            for alpha in (0.5, 0.6, 0.7, 0.9)
        ),
        ablation("masks_published", zeros, ("none", "brcd")),
        *(
            ablation(
                base, {"hasher.base": base}, ("none", "kl", "sp", "brcd_published", "brcd", "brcd_no_mask")
            )
            for base in ("greedyhash", "bihalf")
        ),
    ]


def _kdcmh(config: str, seeds: Sequence[int]) -> list[Planned]:
    return [Planned(f"{bits}bits", config, {"seeds": tuple(seeds), "bits": bits}, None) for bits in BITS]


def _quickstart(seeds: Sequence[int]) -> list[Planned]:
    return _each_seed("digits", "quickstart", {}, seeds)


TABLES: dict[str, Callable[[Sequence[int]], list[Planned]]] = {
    "quickstart": _quickstart,
    "dmth-resnets": _dmth_resnets,
    "dmth-imagenet": _dmth_imagenet,
    "dmth-mix": _dmth_mix,
    "beyond": _dmth_beyond,
    "brcd": _brcd,
    "kdcmh-flickr8k": lambda seeds: _kdcmh("kdcmh_flickr8k", seeds),
    "kdcmh-wikipedia": lambda seeds: _kdcmh("kdcmh_wikipedia", seeds),
}
