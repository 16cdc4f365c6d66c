"""Who may import whom: the rule that keeps every room readable alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "kdhash"
# Room -> the other rooms (or single modules) that it may import. Rooms not named here may import everything but experiment: that
# is for main, which runs it, and for reproduce, which looks at what a run has trained.
MAY_IMPORT = {
    "losses": (),
    "retrieval": ("progress",),
    "data": (),
    "report": (),
    "models": (),
    "teachers": ("models", "data", "processes", "stopping"),
    "methods": ("models", "losses"),
    "training": ("methods.interface", "progress", "processes", "stopping"),
    "processes": ("stopping",),
    "stopping": (),
    "progress": (),
    "serve": ("retrieval", "export", "data"),
    "absent": (),
    "beside": (),
    "compilation": ("beside",),
    "config": ("models", "teachers", "methods", "absent"),
}
FORBIDDEN = {"tensorflow", "torch", "clu"}
MODULES = sorted(ROOT.rglob("*.py"))


def imported(source: str) -> set[str]:
    """The modules that a source text imports, also inside functions; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def violations(room: str, source: str) -> list[str]:
    """What a module of `room` imports and may not."""
    return sorted(name for name in imported(source) if not may_import(room, name))


def may_import(room: str, name: str) -> bool:
    if name.startswith("."):
        return False  # a relative import hides which room it reaches
    package, *inside = name.split(".")
    if package != "kdhash":
        return package not in FORBIDDEN
    if not inside or inside[0] == room:
        return True
    if room in MAY_IMPORT:
        return any(inside[: len(may)] == may for may in (path.split(".") for path in MAY_IMPORT[room]))
    return inside[0] != "experiment" or room in ("main", "reproduce")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_what_its_room_may(path):
    room = path.relative_to(ROOT).with_suffix("").parts[0]
    assert violations(room, path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("losses", "import kdhash.data"),
        ("losses", "from kdhash import models"),
        ("data", "from kdhash.database import x"),  # a room whose name only begins alike
        ("methods", "def f():\n    from kdhash.training.loop import train"),
        ("training", "from kdhash.methods.dmth import hash_student"),
        ("training", "from kdhash.methods import dmth"),
        ("teachers", "from kdhash.losses import balance"),
        ("serve", "import kdhash.teachers.registry"),
        ("export", "import kdhash.experiment.run"),  # a room that is not named above
        ("__main__", "from kdhash.experiment.run import run"),
        ("experiment", "import tensorflow as tf"),
        ("report", "from torch.nn import functional"),
        ("data", "from clu import metric_writers"),
        ("models", "from . import small"),
    ],
)
def test_the_rule_finds(room, source):
    assert len(violations(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("losses", "from kdhash.losses.similarity import cosine"),
        ("training", "from kdhash.methods.interface import Method"),
        ("training", "from kdhash.methods import interface"),
        ("methods", "from kdhash import losses, models"),
        ("main", "from kdhash.experiment.run import run"),
        ("experiment", "import kdhash.experiment.run, kdhash.training.loop"),
        ("serve", "from kdhash.retrieval import search"),
        ("data", "import tensorflow_datasets as tfds"),  # its reading half needs no TensorFlow
    ],
)
def test_the_rule_allows(room, source):
    assert violations(room, source) == []


def test_no_file_is_too_long_to_read():
    long = {str(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in long.items() if lines > 400} == {}
