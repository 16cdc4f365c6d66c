"""Markdown tables of what the other benchmarks wrote with --json, one section a file; docs/performance.md is made of them.

python benchmarks/tables.py training_gpu.json losses_gpu.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

# Columns of each benchmark, in order, with their headings; those that no row has are left out.
COLUMNS: dict[str, dict[str, str]] = {
    "training": {
        "network": "network",
        "loss": "loss",
        "dtype": "dtype",
        "pictures": "pictures a step",
        "kdhash_ms": "kdhash ms",
        "eager_ms": "PyTorch ms",
        "compile_ms": "torch.compile ms",
        "reduce_ms": "CUDA graphs ms",
        "ratio_eager": "PyTorch / kdhash",
        "ratio_compile": "torch.compile / kdhash",
        "ratio_reduce": "CUDA graphs / kdhash",
        "cpu_ratio_eager": "processor time, PyTorch / kdhash",
        "of_floor": "of the floor",
    },
    "losses": {
        "loss": "loss",
        "items": "items",
        "call": "call",
        "kdhash_ms": "kdhash ms",
        "floor_ms": "floor ms",
        "of_floor": "of the floor",
        "passes": "passes",
        "ratio_eager": "PyTorch / kdhash",
        "ratio_compile": "torch.compile / kdhash",
    },
    "teachers": {
        "network": "network",
        "dtype": "dtype",
        "pictures": "batch",
        "kdhash_per_s": "kdhash pictures/s",
        "ratio_eager": "PyTorch / kdhash",
        "ratio_compile": "torch.compile / kdhash",
        "ratio_autotune": "max-autotune / kdhash",
        "of_matmul": "of the matrix rate",
    },
    "pipeline": {
        "input": "input",
        "pictures": "pictures a step",
        "step_ms": "step alone ms",
        "ms": "with input ms",
        "idle": "idle",
        "fetch_per_s": "input alone, pictures/s",
    },
    "convolutions": {
        "layer": "layer",
        "form": "form",
        "cpu_ms": "processor ms",
        "of_torch": "of PyTorch's",
        "apart": "apart",
    },
}


def shown(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(content: dict[str, Any]) -> str:
    rows = content["rows"]
    columns = {
        key: title for key, title in COLUMNS[content["benchmark"]].items() if any(key in row for row in rows)
    }
    if any("failed" in row for row in rows):
        columns["failed"] = "failed"
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[shown(row.get(key)) for key in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(content: dict[str, Any]) -> str:
    machine, rates = content["machine"], content.get("ceilings", {})
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = (
        f"{machine['device']}, {machine['devices']} device(s) of JAX, {machine['cores']} cores, "
        f"load {machine['load']}; {versions}.\n\n    {machine['command']}\n"
    )
    if rates:
        products = ", ".join(
            f"{name} {rate / 1e12:.3g}" for name, rate in rates.items() if name != "bandwidth"
        )
        text += f"\nMeasured ceilings: matrix products, TFLOP/s: {products}; copy {rates['bandwidth'] / 1e9:,.0f} GB/s.\n"
    return f"{text}\n{table(content)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        print(section(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
