"""Who may import whom: the rule that keeps every room readable alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "kdhash"
# Room -> the other rooms (or single modules) that it may import. Rooms not named here may import everything but experiment.
MAY_IMPORT = {
    "losses": (),
    "retrieval": (),
    "data": (),
    "report": (),
    "models": (),
    "teachers": ("models", "data"),
    "methods": ("models", "losses"),
    "training": ("methods.interface",),
    "config": ("models",),
}
FORBIDDEN = {"tensorflow", "torch", "clu"}
MODULES = sorted(ROOT.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from kdhash.methods import interface` names a module too
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_what_its_room_may(path):
    room = path.relative_to(ROOT).with_suffix("").parts[0]
    for name in imports_of(path):
        assert name.split(".")[0] not in FORBIDDEN
        if not name.startswith("kdhash.") or name.startswith(f"kdhash.{room}"):
            continue
        inside = name.removeprefix("kdhash.")
        if room in MAY_IMPORT:
            allowed = MAY_IMPORT[room]
            assert any(inside == may or inside.startswith(may + ".") for may in allowed), (
                f"{path} imports {name}"
            )
        elif room not in ("main", "__main__"):
            assert not inside.startswith("experiment"), f"{path} imports {name}"


def test_no_file_is_too_long_to_read():
    long = {str(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in long.items() if lines > 400} == {}
