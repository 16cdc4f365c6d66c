"""Which field a config lacks, from the error of ml_collections. Imports nothing of kdhash: flags are parsed with it."""

import re
from typing import NamedTuple


class Absent(NamedTuple):
    field: str
    near: str | None  # one of a like name that is there


def absent_field(error: BaseException) -> Absent | None:
    """None where `error` is none of a ConfigDict without such a field: it puts the name in quotes, a dict does not."""
    inner = error.args[0] if error.args else ""
    if not isinstance(error, KeyError) and not isinstance(inner, KeyError):
        return None
    text = str(inner.args[0] if isinstance(inner, KeyError) else inner)
    field = re.match(r"['\"]([\w.]+)['\"]", text)
    near = re.search(r"Did you mean ['\"](\w+)['\"] instead of", text)
    return Absent(field[1], near[1] if near else None) if field else None
