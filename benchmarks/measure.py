"""What the benchmarks share: turns that are fair, the machine's measured ceilings, rows that outlive a run cut short."""

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Side = Callable[[int], None]  # does its work so many times, and returns when all of it is done


def device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, help="cores both sides may use; 0: all")
    parser.add_argument("--host-devices", type=int, default=1, help="parts that JAX makes of a CPU")
    parser.add_argument("--json", type=Path, help="write the rows here, each as soon as it is measured")


def set_devices(args: argparse.Namespace) -> None:
    """To be called before JAX and PyTorch start their threads. Leaves both nearly half of a GPU's memory."""
    if args.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.host_devices > 1:
        flag = f"--xla_force_host_platform_device_count={args.host_devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        os.environ.setdefault("PJRT_NPROC", str(2 * args.host_devices))
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".45")


def machine() -> dict[str, Any]:
    """Where, with what and under which load the numbers were measured. Of the command not where results go."""
    import jax

    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    backend, torch = jax.default_backend(), sys.modules.get("torch")
    return {
        "device": jax.devices()[0].device_kind if backend != "cpu" else model,
        "processor": model,
        "backend": backend,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "command": command(sys.argv),
        "versions": {"python": platform.python_version(), "jax": jax.__version__}
        | ({"torch": torch.__version__} if torch else {}),
    }


def command(argv: list[str]) -> str:
    """As it is typed in the repository's root, without where results go."""
    options = re.sub(r" --(json|trace)[ =]\S+", "", " ".join(["", *argv[1:]]))
    return f"python benchmarks/{Path(argv[0]).name}{options}"


def first_line(error: BaseException) -> str:
    """What a row says that failed."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"


class Record:
    """Rows of one run. Each is printed and, where there is a path, the file replaced by one that holds it too."""

    def __init__(self, path: Path | None, **header: Any):
        self.path, self.content = path, {"benchmark": Path(sys.argv[0]).stem, "machine": machine()} | header
        self.content["rows"] = []
        print(json.dumps({key: value for key, value in self.content.items() if key != "rows"}), flush=True)

    def add(self, **row: Any) -> None:
        self.content["rows"].append(row)
        self._say(row)

    def amend(self, **more: Any) -> None:
        """What takes longer to know of the last row."""
        self.content["rows"][-1] |= more
        self._say(more)

    def _say(self, values: dict[str, Any]) -> None:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in values.items()
            ),
            flush=True,
        )
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text(json.dumps(self.content, indent=1) + "\n")
            partial.replace(self.path)


def take_turns(sides: dict[str, Side], *, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """{side: {'ms': a call's wall time, 'cpu_ms': its processor time, both medians over rounds, 'rounds': wall ms of each}}.

    A turn lasts about `seconds`, or one call; sides take turns, so that a busy machine slows all. Compile before.
    """
    calls = {}
    for name, side in sides.items():
        side(1)
        start = time.perf_counter()
        side(2)
        calls[name] = max(1, round(seconds / max((time.perf_counter() - start) / 2, 1e-9)))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name](calls[name])
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((1e3 * spent[0] / calls[name], 1e3 * spent[1] / calls[name]))
    return {
        name: {
            "ms": statistics.median(wall for wall, _ in pairs),
            "cpu_ms": statistics.median(cpu for _, cpu in pairs),
            "rounds": [round(wall, 4) for wall, _ in pairs],
        }
        for name, pairs in times.items()
    }


def ratio(times: dict[str, dict[str, Any]], slow: str, quick: str) -> float:
    """How many times longer a call of `slow` takes than one of `quick`: the median over rounds."""
    pairs = zip(times[slow]["rounds"], times[quick]["rounds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def ceilings() -> dict[str, float]:
    """Measured on this device: FLOP/s of matrix products of random numbers, bytes/s of reading and writing a large array.

    'bfloat16' with float32 sums; 'float32' as JAX multiplies by default, in TF32 on GPUs that have it, as in convolutions;
    'exact' at the highest precision, as in losses. Sizes: 8192 on accelerators, 1024 on CPUs.
    """
    import jax
    import jax.numpy as jnp

    on_cpu = jax.default_backend() == "cpu"
    size, copied = (1024, 2**26) if on_cpu else (8192, 2**29)
    # of length 1 on average, so that repeated products stay random numbers of the same size
    a, b = (jax.random.normal(jax.random.key(seed), (size, size)) / size**0.5 for seed in (0, 1))

    def best(function: Callable[..., Any], x: Any, *rest: Any) -> float:
        compiled = jax.jit(function, donate_argnums=0)  # new memory would have to be mapped first
        x = compiled(x, *rest).block_until_ready()
        turns = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(3 if on_cpu else 10):
                x = compiled(x, *rest)
            x.block_until_ready()
            turns.append((time.perf_counter() - start) / (3 if on_cpu else 10))
        return min(turns)

    def product(dtype: Any, precision: Any = None) -> float:
        return best(
            lambda x, y: jnp.matmul(x, y, precision=precision), jnp.array(a, dtype), jnp.array(b, dtype)
        )

    flops = 2 * size**3
    copied_bytes = 4 * copied
    return {
        "bfloat16": flops / product(jnp.bfloat16),
        "float32": flops / product(jnp.float32),
        "exact": flops / product(jnp.float32, jax.lax.Precision.HIGHEST),
        "bandwidth": 2
        * copied_bytes
        / best(lambda x: x + 1, jax.random.normal(jax.random.key(2), (copied,))),
    }
