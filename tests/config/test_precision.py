"""config.dtype, config.remat, config.compilation_cache_dir: what they may be, and what a workdir makes of them."""

import importlib.util
from pathlib import Path

import pytest

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
    ],
)
def test_mistakes(name, field, value, message):
    config = shipped(name)
    with config.ignore_type():
        config[field] = value
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
