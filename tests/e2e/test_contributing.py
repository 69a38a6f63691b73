"""The additions that CONTRIBUTING.md shows work: its code blocks are written into a clone unchanged and used there."""

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import Project, clone

pytestmark = pytest.mark.slow

PLACE = re.compile(
    r"In `(?P<file>[^`\n]+)`(?:, (?P<side>before|after) `(?P<line>[^`\n]+)`)?:\n\n```\w*\n(?P<code>.*?)```\n", re.DOTALL
)


@pytest.fixture(scope="module")
def extended(root, tmp_path_factory) -> Project:
    """A clone with all additions that CONTRIBUTING.md shows."""
    project = clone(root, tmp_path_factory.mktemp("contributing") / "clone")
    for place in PLACE.finditer((root / "CONTRIBUTING.md").read_text()):
        file = project.folder / place["file"]
        if place["line"] is None:
            assert not file.exists()
            file.write_text(place["code"])
        else:
            insert(file, place["code"], place["side"], place["line"])
    return project


def insert(file: Path, code: str, side: str, line: str) -> None:
    """Put code before or after the line that begins with `line`, with the blank lines usual in this kind of file."""
    before, mark, after = file.read_text().partition(f"\n{line}")
    assert mark, f"{file.name} has no line that begins with {line!r}"
    if side == "after":
        file.write_text(f"{before}{mark}\n\n{code.rstrip()}{after}")
    else:
        inside = code.startswith((" ", "from "))  # a line of a table or class, an import
        apart = {".py": "" if inside else "\n\n", ".yaml": "\n"}.get(file.suffix, "")
        file.write_text(f"{before}\n{code}{apart}{line}{after}")


def test_every_code_block_of_contributing_is_inserted_somewhere(root):
    text = (root / "CONTRIBUTING.md").read_text()
    code = re.findall(r"^```(?:python|yaml|text)\n", text, re.MULTILINE)
    placed = [place for place in PLACE.finditer(text) if not place["file"].endswith(".md")]
    assert len(code) == len(placed) > 5


def test_the_additions_pass_lint_and_types(extended):
    extended.run("ruff", "check", ".")
    extended.run("ruff", "format", "--check", ".")
    extended.run("codespell")
    extended.run("mypy")


def test_the_additions_pass_the_tests_of_their_rooms(extended):
    """All but the list of modules in docs/architecture.md, into which a line of prose would have to be written."""
    units = ["distillation", "gate", "evaluation", "data/test_patient_class.py", "data/test_roots.py"]
    units += ["test_examples.py", "test_structure.py", "test_layout.py", "test_imports.py"]
    tests = [f"tests/unit/{name}" for name in units]
    tests += ["tests/pipeline/test_formats.py", "tests/pipeline/test_dvc_deps.py"]
    pytest_ = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
    done = extended.run(*pytest_, *tests)
    assert "failed" not in done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 500


def test_a_recipe_uses_the_loss(extended):
    params = extended.params
    params["recipes"]["kd"]["terms"] = [{"loss": "huber_kd", "delta": 2.0}]
    extended.write_params(params)
    read = "from medistill.params import load_params; print(load_params().recipes['kd'].terms[0].options())"
    assert extended.run("python", "-c", read).stdout == "{'delta': 2.0}\n"


def test_the_stage_runs_in_the_graph(extended):
    params = extended.params
    params["phantom"]["images"] = 60
    extended.write_params(params)
    extended.run("dvc", "repro", "counts")
    counts = (extended.folder / "reports" / "counts.csv").read_text()
    assert counts.startswith("split,label:")
    assert [line.split(",")[0] for line in counts.splitlines()[1:]] == ["test", "train", "val"]
    assert "counts" in extended.run("dvc", "dag").stdout
