"""What is declared: every run can be started, and says how by hand."""

import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from kdhash.config import ConfigError, check_config, flat
from kdhash.reproduce.configs import load_config
from kdhash.reproduce.plan import TABLES, Places, command, planned
from kdhash.reproduce.start import ROOT, chosen


@pytest.mark.parametrize("table", TABLES)
def test_runs_have_names_of_their_own_and_configs_without_mistakes(table):
    runs = planned(table)
    assert len({run.name for run in runs}) == len(runs)
    assert len({command(table, run) for run in runs}) == len(runs)
    for run in {run.group: run for run in runs}.values():
        config = load_config(run, Places())
        try:
            check_config(config, devices=1)
        except ConfigError as error:  # of data and weights alone, which are not here
            wrong = [
                line for line in str(error).splitlines() if "weights" not in line and "data_dir" not in line
            ]
            assert not wrong, run.name


@pytest.mark.parametrize(
    ("table", "name"),
    [("dmth-resnets", "cifar10-2-16bits-seed1"), ("brcd", "clusters5"), ("beyond", "one_view-cached-seed2")],
)
def test_the_command_line_gives_the_declared_config(table, name, monkeypatch):
    (run,) = chosen(planned(table), [name])
    program, *arguments = shlex.split(command(table, run))[2:]
    assert program == "kdhash.main"
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, lock_config=True)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    arguments[1] = str(ROOT / arguments[1])
    monkeypatch.setattr("sys.argv", ["kdhash.main", *arguments])  # whose overrides config_flags looks for
    values(["kdhash.main", *arguments])
    assert flat(values.config) == flat(load_config(run, Places()))
    assert values.workdir == f"runs/reproduce/{table}/{name}"


def test_runs_are_chosen_by_pattern():
    runs = planned("dmth-resnets", [0, 5])
    assert [run.name for run in chosen(runs, ["cifar10-1-16bits-*"])] == [
        "cifar10-1-16bits-seed0",
        "cifar10-1-16bits-seed5",
    ]
    assert chosen(runs, None) == runs
    with pytest.raises(ValueError, match="--only cifar9: no such run; choose from cifar10-2-16bits-seed0, "):
        chosen(runs, ["cifar9"])
    with pytest.raises(ValueError, match="no table 'dmth'; choose from quickstart, dmth-resnets"):
        planned("dmth")
    with pytest.raises(ValueError, match="--seeds: a run of brcd trains all of 0, 1, 2; for others start"):
        planned("brcd", [0])
