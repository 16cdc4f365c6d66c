"""A planned run's config, as the main job makes it of the file and the flags."""

import importlib.util

from ml_collections import ConfigDict

from kdhash.reproduce.plan import Places, Planned
from kdhash.reproduce.start import ROOT


def load_config(run: Planned, places: Places) -> ConfigDict:
    """Raises KeyError for a field that the config file does not have."""
    spec = importlib.util.spec_from_file_location(run.config, ROOT / "configs" / f"{run.config}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config().lock()
    fields = {**run.fields, **places._asdict()}
    del fields["workdir"]
    config.update_from_flattened_dict(fields)
    return config
