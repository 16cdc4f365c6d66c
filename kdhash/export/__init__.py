"""A trained student as a self-contained folder: pictures and texts to codes, without the run that made it."""

from kdhash.export.model import Facts, Model, load_model, read_model

__all__ = ["Facts", "Model", "load_model", "read_model"]
