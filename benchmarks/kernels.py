"""Where the device spends a step: the time of a trace by kind of kernel, of `training.py --trace` or of `--config.profile`.

    python benchmarks/training.py --dtypes bfloat16 --pictures 1024 --networks resnet20 --trace traces
    python benchmarks/kernels.py traces/* --steps 10

A row is one kind of kernel: how many a step, its milliseconds a step, its share of the time the device worked. 'idle' is the
rest of the time from the first kernel to the last, in which none ran. Kinds go by kernels' names: cuDNN and cuBLAS name theirs
by what they do, XLA its own by the operations that it fused. `--longest N` adds the N longest kernels. Of a CPU, whose
threads work side by side, the kinds' times are thread time, and what is idle is not known.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# The first that is found in a name is its kind.
KINDS = {
    "weight gradients of convolutions": r"wgrad|bw-filter|bprop_filter|backward_filter",
    "input gradients of convolutions": r"dgrad|bw-input|bprop_data|backward_data",
    "convolutions forward": r"fprop|conv(?!ert)|implicit",
    "matrix products": r"gemm|nvjet|cublas|\bdot|cutlass",
    "copies, layouts, padding": r"nchw|nhwc|transpose|copy|memcpy|memset|pad\b|pad_",
    "reductions": r"reduce",
    "element by element": r"fusion|wrapped|loop_|multiply|add|select|broadcast|convert|subtract|compare",
}
FORMS = {"number": "{:.1f}", "share": "{:.1%}"}


class Event(NamedTuple):
    name: str
    start: float  # ns
    end: float  # ns


def kind_of(name: str) -> str:
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower()))
    return next(found, "others")


def events_of(folder: Path) -> tuple[list[Event], bool]:
    """What the devices ran in a trace, and whether these are an accelerator's. Raises FileNotFoundError, ValueError."""
    import jax

    paths = sorted(folder.rglob("*.xplane.pb"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no trace (*.xplane.pb) in this folder")
    planes = list(jax.profiler.ProfileData.from_file(str(paths[-1])).planes)
    devices = [plane for plane in planes if re.match(r"/device:(GPU|TPU)", plane.name)]

    def taken() -> Iterator[Event]:
        for plane in devices or planes:
            for line in plane.lines:
                if devices and not line.name.startswith("Stream"):
                    continue  # the same once more, by operation or by step
                for event in line.events:
                    if devices or any(key == "hlo_op" for key, _ in event.stats):
                        yield Event(event.name, event.start_ns, event.start_ns + event.duration_ns)

    events = sorted(taken(), key=lambda event: event.start)
    if not events:
        raise ValueError(f"{folder}: the trace holds no kernels")
    return events, bool(devices)


def covered(events: Iterable[Event]) -> float:
    """ns in which at least one ran; `events` by their start."""
    total, until = 0.0, 0.0
    for event in events:
        total += max(0.0, event.end - max(event.start, until))
        until = max(until, event.end)
    return total


def spent_on(
    events: Iterable[Event], kind: Callable[[str], str], steps: int, most: int | None = None
) -> list[dict[str, Any]]:
    """kind of a kernel's name, number and ms a step, share of all; the largest first, `most` of them."""
    spent: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for event in events:
        spent[kind(event.name)] += event.end - event.start
        count[kind(event.name)] += 1
    return [
        {
            "kind": name,
            "number": count[name] / steps,
            "ms": 1e-6 * time / steps,
            "share": time / spent.total(),
        }
        for name, time in spent.most_common(most)
    ]


def kinds(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Of a trace of so many steps: where the time went by kind of kernel, and what of it was idle. Raises as `events_of`."""
    events, accelerator = events_of(folder)
    rows = spent_on(events, kind_of, steps)
    if accelerator:
        idle = events[-1].end - events[0].start - covered(events)
        rows.append({"kind": "idle", "ms": 1e-6 * idle / steps})
    return rows


def longest(folder: Path, steps: int, most: int) -> list[dict[str, Any]]:
    """The kernels by name that took longest. Raises as `events_of`."""
    return spent_on(events_of(folder)[0], lambda name: f"`{name[:120]}`", steps, most)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, required=True, help="steps in each trace")
    parser.add_argument("--longest", type=int, default=0, metavar="N")
    args = parser.parse_args()
    print("| step | kernels | number | ms | share |\n|---|---|---:|---:|---:|")
    for folder in args.folders:
        for row in [*kinds(folder, args.steps), *longest(folder, args.steps, args.longest)]:
            number, share = (form.format(row[key]) if key in row else "" for key, form in FORMS.items())
            print(f"| {folder.name} | {row['kind']} | {number} | {row['ms']:.3f} | {share} |")


if __name__ == "__main__":
    main()
