"""config.dtype, config.remat, config.compilation_cache_dir: what they may be, and what a workdir makes of them; and fields that
are not there at all."""

import importlib.util
from pathlib import Path

import pytest

import kdhash
from kdhash.config import ConfigError, check_config
from kdhash.experiment.workdir import claim, computed

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def shipped(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("quickstart", "dtype", "float16", "config.dtype is 'float16'; choose one of float32, bfloat16"),
        ("quickstart", "remat", "yes", "config.remat is 'yes'; give True or False"),
        ("brcd_scratch", "remat", True, "no network that is trained here is made of blocks"),
        ("quickstart", "teacher.forms.attention.heads", 0, "heads is 0; give a whole number from 1 on"),
        (
            "quickstart",
            "data_cache_dir",
            3,
            "config.data_cache_dir is 3; give a folder, '' for .data_cache beside",
        ),
        ("brcd_cifar10", "features", None, "config.features is None; give it a value, or its fields"),
        ("quickstart", "student.schedule.epochs", None, "config.student.schedule.epochs is None; give it a"),
    ],
)
def test_mistakes(name, field, value, message):
    config = shipped(name)
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError) as error:
        check_config(config, devices=1)
    assert message in str(error.value)


def test_a_workdir_goes_on_with_other_memory_but_not_with_another_precision(tmp_path):
    config = shipped("quickstart")
    claim(tmp_path, config)
    assert "dtype" not in computed(config)  # as in workdirs from before there was a choice
    check_config(config, devices=1)
    config.remat, config.compilation_cache_dir = True, "off"
    claim(tmp_path, config)
    config.dtype = "bfloat16"
    check_config(config, devices=1)
    with pytest.raises(ConfigError, match="dtype: '<absent>' there, 'bfloat16' now"):
        claim(tmp_path, config)


def test_a_workdir_does_not_go_on_with_another_version(tmp_path, monkeypatch):
    config = shipped("quickstart")
    claim(tmp_path, config)
    monkeypatch.setattr(kdhash, "__version__", "99")
    with pytest.raises(ConfigError, match="was made by kdhash .*, and this is 99"):
        claim(tmp_path, config)


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("quickstart", "student.schedule.clip_norm", "config.student.schedule has no clip_norm"),
        ("brcd_cifar10", "clusters", "config has no field 'clusters'; config.method 'brcd' needs it"),
        ("quickstart", "student.schedule", "config has no field 'schedule'; config.method 'dmth' needs it"),
    ],
)
def test_a_field_that_is_not_there_is_named(name, field, message):
    config = shipped(name)
    *groups, last = field.split(".")
    group = config
    for one in groups:
        group = group[one]
    del group[last]
    with pytest.raises(ConfigError) as error:
        check_config(config, devices=1)
    assert message in str(error.value)


def test_a_misspelt_field_of_ones_own_config_is_named():
    config = shipped("quickstart").unlock()
    config.bit = config.bits
    del config["bits"]
    with pytest.raises(
        ConfigError, match="config has no field 'bits', but 'bit'; config.method 'dmth' needs it"
    ):
        check_config(config, devices=1)


def test_a_mistake_of_ours_is_not_called_one_of_the_config():
    config = shipped("quickstart")
    with config.ignore_type():
        config.features = 3
    with pytest.raises(AttributeError, match="'int' object has no attribute"):
        check_config(config, devices=1)
