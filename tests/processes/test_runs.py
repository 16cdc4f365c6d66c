"""Whole runs as several processes: the results of one, every file written once."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.processes.small_runs import METHODS, write_data
from tests.processes.starting import start, start_several, succeed


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory):
    """Folders of the runs of one device, and of two processes with two devices each; and what these have said."""
    data, one, two = (tmp_path_factory.mktemp(name) for name in ("data", "one", "two"))
    write_data(data)
    module = "tests.processes.small_runs"
    several = start_several(2, module, data, two, 2)
    *outputs, _ = succeed([*several, start(module, data, one, 1)])
    return one, two, outputs


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_results_of_one_device(finished_runs, method):
    one, two = (folder / method for folder in finished_runs[:2])
    mine, theirs = (json.loads((run / "report" / "results.json").read_text()) for run in (two, one))
    assert [row["name"] for row in mine["rows"]] == [row["name"] for row in theirs["rows"]]
    for row, other in zip(mine["rows"], theirs["rows"], strict=True):
        # a bit on the edge may turn
        assert row["metrics"] == pytest.approx(other["metrics"], abs=5e-3), row["name"]
    weights = sorted(path.relative_to(one) for path in one.rglob("model.safetensors"))
    assert len(weights) >= 2
    assert weights == sorted(path.relative_to(two) for path in two.rglob("model.safetensors"))
    for path in weights:
        found, expected = load_file(two / path), load_file(one / path)
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3, err_msg=f"{path} {name}")


def test_the_same_files_and_nothing_half_written(finished_runs):
    def names(folder):
        places = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        logs = {"tb", "checkpoints"}  # named after the time, the machine and the devices
        return {str(place) for place in places if not logs & set(place.parts)}

    one, two, _ = finished_runs
    assert names(two) == names(one)
    for encoder in two.glob("kdcmh/inputs/*/texts/encoder/text_features.json"):
        assert encoder.read_bytes() == (one / encoder.relative_to(two)).read_bytes()


def test_only_the_first_process_speaks(finished_runs):
    first, second = finished_runs[2]
    assert "student, taught by mean" in first
    assert "report: " in first
    assert [line for line in second.splitlines() if "[Gloo]" not in line] == []
