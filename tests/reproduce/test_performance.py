"""Tables of speed: what stands over them, which columns there are, and what is said of what is missing."""

import json
from pathlib import Path

import pytest

from kdhash.reproduce import performance
from kdhash.reproduce.tables import NOTHING

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "device": "A GPU",
    "devices": 1,
    "cores": 16,
    "load": 0.5,
    "command": "python benchmarks/training.py --networks resnet8",
    "versions": {"jax": "1.2"},
}
KERNELS = [{"kind": "reductions", "number": 2.0, "ms": 0.5, "share": 0.25}, {"kind": "idle", "ms": 0.1}]


def put(results, device, job, rows, **more):
    path = results / "performance" / device / f"{job}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": "training", "machine": MACHINE, "rows": rows} | more
    path.write_text(json.dumps(document))
    return path


def test_files_of_a_device_are_one_table(tmp_path):
    rates = {"bfloat16": 7e14, "bandwidth": 4e12}
    row = {"network": "resnet8", "loss": "dmth", "kdhash_ms": 1234.5, "of_floor": 0.003, "kernels": KERNELS}
    put(tmp_path, "a-gpu", "training_resnet8", [row], ceilings=rates)
    put(
        tmp_path,
        "a-gpu",
        "training_resnet18",
        [{"network": "resnet18", "loss": "brcd", "failed": "losses differ"}],
        ceilings=rates | {"bfloat16": 8e14},
        ended="was cut off after 90 s",
        machine=MACHINE | {"load": 2.0, "command": "python benchmarks/training.py --networks resnet18"},
    )
    made = performance.of_accelerators(tmp_path, "training")
    assert made.splitlines() == [
        "A GPU, 16 cores; jax 1.2; load at the start 0.5 to 2.",
        "",
        "    python benchmarks/training.py --networks resnet18",
        "    python benchmarks/training.py --networks resnet8",
        "",
        "Measured ceilings: matrix products, TFLOP/s: bfloat16 700 to 800; copy, GB/s: 4,000.",
        "",
        "| network | loss | kdhash ms | of the floor | failed |",
        "| --- | --- | --- | --- | --- |",
        "| resnet18 | brcd |  |  | losses differ |",
        "| resnet8 | dmth | 1,234 | 3.0e-03 |  |",
        "",
        "`training_resnet18` was cut off after 90 s: the table has what it measured.",
    ]
    kernels = performance.of_accelerators(tmp_path, "kernels").splitlines()
    assert kernels[-2:] == [
        "| resnet8 | dmth | reductions | 2 | 0.5 | 0.25 |",
        "| resnet8 | dmth | idle |  | 0.1 |  |",
    ]
    assert performance.of_cpu(tmp_path, "training") == NOTHING
    assert performance.of_accelerators(tmp_path, "losses") == NOTHING
    assert performance.whole_runs(tmp_path) == NOTHING


def test_numbers_of_devices_are_told_where_they_differ(tmp_path):
    put(tmp_path, "cpu", "training", [{"network": "resnet8"}])
    assert "devices |" not in performance.of_cpu(tmp_path, "training")
    put(tmp_path, "cpu", "training_divided", [{"network": "resnet8"}], machine=MACHINE | {"devices": 8})
    table = performance.of_cpu(tmp_path, "training").splitlines()[-4:]
    assert table == ["| devices | network |", "| --- | --- |", "| 1 | resnet8 |", "| 8 | resnet8 |"]


def test_each_device_has_a_section_of_its_own(tmp_path):
    put(tmp_path, "a-gpu", "training", [{"network": "resnet8"}])
    put(tmp_path, "b-gpu", "training", [{"network": "resnet8"}], machine=MACHINE | {"device": "B GPU"})
    made = performance.of_accelerators(tmp_path, "training")
    assert made.index("A GPU, 16 cores") < made.index("| resnet8 |") < made.index("B GPU, 16 cores")


def test_damaged_files_are_named(tmp_path):
    path = put(tmp_path, "cpu", "training", [])
    path.write_text('{"rows": []}')
    with pytest.raises(ValueError, match="training.json is damaged .* delete it and measure it again"):
        performance.of_cpu(tmp_path, "training")


def test_files_name_no_place_of_a_machine():
    paths = sorted((ROOT / "results" / "performance").glob("*/*.json"))
    assert paths
    for path in paths:
        document = json.loads(path.read_text())
        assert document["benchmark"] in performance.COLUMNS, path
        assert "/" not in document["machine"]["command"].removeprefix("python benchmarks/"), path
        assert performance.section(document["benchmark"], [document | {"job": path.stem}]), path
