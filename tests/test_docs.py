"""README and docs: links lead somewhere, and what commands name is there."""

import importlib.util
import re
from pathlib import Path

import pytest

from kdhash.config import flat

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_modules_that_are_named_exist(page):
    text = page.read_text()
    for path in re.findall(r"(?<![\w/.])(?:benchmarks|configs|docs|launch|tests|kdhash)/[\w./-]+", text):
        assert (ROOT / path.rstrip(".")).exists(), path
    for module in re.findall(r"python3? -m (kdhash[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module


@pytest.fixture(scope="module")
def fields() -> dict[str, set[str]]:
    """Of every file of configs/, by its path: all fields by their dotted names, and the groups that hold them."""
    found = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names = set(flat(module.get_config()))
        groups = {name[: dot.start()] for name in names for dot in re.finditer(r"\.", name)}
        found[f"configs/{path.name}"] = names | groups
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_fields_that_commands_set_exist(page, fields):
    """In the config of the same command; elsewhere in any."""
    for line in re.sub(r"\\\n\s*", " ", page.read_text()).splitlines():
        config = re.search(r"configs/\w+\.py", line)
        known = fields[config[0]] if config else set().union(*fields.values())
        for field in re.findall(r"--config\.(\w+(?:\.\w+)*)", line):
            assert field in known, f"{field} of {config and config[0]}"


def test_scores_that_are_told_of_are_those_of_the_results():
    """In prose: what stands between markers has a test of its own. The README and docs/kdcmh.md tell differences only."""
    results, page = ((ROOT / "docs" / name).read_text() for name in ("results.md", "brcd.md"))
    told = re.findall(
        r"(?<!\d)0\.\d{4}(?!\d)", page[page.index("## What holds") : page.index("## Without ImageNet")]
    )
    assert told
    for number in told:
        assert number in results, number
