"""The documentation names only files, modules and names that exist."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.source import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "reports/README.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "splits" / "README.md"]

ROOTS = ("", "src/medistill/", "pipeline/")
"""Folders at which a path in a page may begin."""

ADDED = {
    *re.findall(r"In `([^`\n]+\.py)`:", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
    "src/medistill/data/adapters/NAME.py",
}
"""Files that readers of CONTRIBUTING.md and docs/data.md are told to write."""


CLOSER = {"adapters", "reading", "sections", "records"}
"""Folders whose modules the list of rooms does not name one by one."""


def names_in(text: str) -> tuple[set[str], set[str]]:
    """Paths of Python files, and dotted names of medistill, pipeline and benchmarks."""
    paths = set(re.findall(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.py)\b", text))
    modules = set(re.findall(r"\b((?:medistill|pipeline|benchmarks)(?:\.[A-Za-z_]\w*)+)(?![\w/(-])", text))
    modules -= {module.removesuffix(".py").replace("/", ".").removeprefix("src.") for module in ADDED}
    return paths, {name for name in modules if not name.endswith((".py", ".md", ".key", ".git"))}


def exists(name: str) -> bool:
    """Whether a dotted name is a module or a name in one."""
    *parents, last = name.split(".")
    for top in ("src", "."):
        place = ROOT / top / Path(*name.split("."))
        if place.is_dir() or place.with_suffix(".py").is_file():
            return True
        module = (ROOT / top).joinpath(*parents).with_suffix(".py")
        if module.is_file():
            return hasattr(importlib.import_module(".".join(parents)), last)
    return False


def test_the_reader_of_pages_finds_what_they_name():
    text = (
        "See `models/ofa.py` (medistill.models.ofa), `python -m pipeline.stages.distill`; `~/.prefect/medistill.key`."
    )
    assert names_in(text) == ({"models/ofa.py"}, {"medistill.models.ofa", "pipeline.stages.distill"})
    assert exists("medistill.models.ofa")
    assert exists("medistill.errors.UserError")
    assert not exists("medistill.errors.Nothing")
    assert not exists("medistill.nothing")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page):
    paths, modules = names_in(page.read_text(encoding="utf-8"))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    tracked = {*listed, *(Path(name).name for name in listed)}
    assert [path for path in sorted(paths - ADDED) if not tracked & {root + path for root in ROOTS}] == []
    assert [name for name in sorted(modules) if not exists(name)] == []


def test_the_list_of_rooms_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+", page.split("## Rooms")[1].split("## The graph")[0]))
    rooms = [path for path in (ROOT / "src" / "medistill").rglob("*.py") if path.parent.name not in CLOSER]
    rooms += [path for path in (ROOT / "pipeline").glob("*.py")]
    assert {path.stem for path in rooms} - named - {"__init__", "__main__", "settings"} == set()
