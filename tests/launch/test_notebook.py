"""The notebook: its cells run as a script. Lines with ! go to a shell, as in IPython."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.launch.stand_ins import LAUNCH, SMALL, environment, python_of_tests
from tests.processes.starting import ROOT


@pytest.fixture(scope="module")
def notebook():
    notebook = nbformat.read(LAUNCH / "colab.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(notebook):
    """(tags, source) of every cell with code."""
    return [
        (cell.metadata.get("tags", []), re.sub(r"^( *)!(.*)$", r"\1run(f'''\2''')", cell.source, flags=re.M))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_notebook_trains_and_shows_the_report(notebook, tmp_path, monkeypatch):
    """With the installation left out, a smaller configuration, and a page that is only noted."""
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)
    shown = []
    display = type(sys)("IPython.display")
    display.HTML = lambda filename: shown.append(Path(filename).read_text())
    monkeypatch.setitem(sys.modules, "IPython", type(sys)("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(ROOT)
    python_of_tests(tmp_path / "bin" / "python")
    settings = environment(tmp_path / "bin")
    names = {"run": lambda command: subprocess.run(command, shell=True, check=True, env=settings)}
    for tags, source in code(notebook):
        if "install" not in tags:
            exec(source, names)
        if "parameters" in tags:
            names |= {"CONFIG": SMALL, "WORKDIR": str(tmp_path / "run")}
    (page,) = shown
    assert "mAP@all" in page
    assert "data:image/png;base64," in page


def test_the_notebook_installs_from_an_archive_and_again(notebook, tmp_path, monkeypatch):
    """With commands noted instead."""
    (tmp_path / "kdhash-main" / "kdhash").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "kdhash-main")
    shutil.make_archive(str(tmp_path / "kdhash"), "zip", tmp_path, "kdhash-main")
    monkeypatch.chdir(tmp_path)
    commands = []
    names = {"run": commands.append}
    (_, parameters), (_, install), *_ = code(notebook)
    exec(parameters, names)
    for _ in range(2):
        exec(install, names)
        assert Path.cwd() == tmp_path / "kdhash"
    assert Path("pyproject.toml").is_file()
    assert [command.split()[:2] for command in commands] == [["pip", "install"]] * 2


def test_the_notebook_installs_from_git(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = []

    def run(command):
        commands.append(command)
        if command.startswith("git"):
            os.mkdir(command.split()[-1])

    (_, install) = code(notebook)[1]
    exec(install, {"run": run, "SOURCE": "https://example.org/kdhash.git"})
    assert commands[0] == "git clone --quiet --depth 1 https://example.org/kdhash.git kdhash"
    assert commands[1] in ('pip install --quiet "."', 'pip install --quiet ".[cuda12]"')
