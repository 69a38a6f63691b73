"""README's commands run as they stand there; `ELSEWHERE` says of those not typed here where they are, or why not."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Project, clone, tiny

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:make|python|medistill|dvc|git|source) [^`]+)`")

TYPED = {
    "python -m pipeline check": "python -m pipeline check",
    "medistill models": "medistill models",
    "medistill phantom OUT --images 2000 --size 256": "medistill phantom drawn --images 40 --size 64",
    "medistill check ROOT --format chestxray14": "medistill check drawn --format chestxray14",
    "medistill check /data/ChestX-ray14 --format chestxray14": "medistill check drawn --format chestxray14",
    "python -m pipeline preset paper-a-chestxray14 --root ROOT": (
        "python -m pipeline preset paper-a-chestxray14 --root drawn"
    ),
    "git update-index --no-skip-worktree dvc.lock": "git update-index --no-skip-worktree dvc.lock",
    "git add dvc.lock": "git add dvc.lock",
}
"""A command of README, and how it is typed here: with an existing folder and fewer images."""

ELSEWHERE = {
    "git clone <this repository> medistill": ("tests/e2e/conftest.py", "def clone("),
    "git clone": ("tests/e2e/test_graph.py", '"git", "clone"'),
    "medistill check": ("tests/e2e/test_readme.py", "medistill check drawn"),
    "cd medistill": ("tests/e2e/conftest.py", "cwd=self.folder"),
    # `make repro` installs every package; the tests of the graph type its commands.
    "make repro": ("tests/e2e/conftest.py", '"dvc", "repro"'),
    "python -m pipeline track": ("tests/e2e/conftest.py", '"track"'),
    "medistill predict IMAGE… --model exports/<student> --heatmaps DIR": ("tests/e2e/test_graph.py", '"predict"'),
    "medistill provenance LIST --format chestxray14 --out train_ids.npz": ("tests/unit/test_cli.py", '"provenance"'),
    "medistill compare old.csv new.csv --truth test.csv --group patient_id": ("tests/unit/test_cli.py", '"compare"'),
    "medistill evaluate exports/<student> ROOT --format csv": ("tests/unit/evaluation/test_external.py", '"evaluate"'),
    "python -m pipeline promote --dry-run": ("tests/pipeline/test_main.py", '"--dry-run"'),
    "dvc push": ("tests/e2e/test_graph.py", '"push"'),
    "dvc pull": ("tests/e2e/test_graph.py", '"pull"'),
    # Servers, which run until they are ended.
    "python -m pipeline ui": ("tests/pipeline/test_servers.py", '"ui"'),
    "python -m pipeline retrain --workers 2": ("tests/pipeline/test_flow.py", '"retrain"'),
    "python -m pipeline prefect": ("tests/pipeline/test_servers.py", '"prefect"'),
    'python -m pipeline serve --cron "0 2 * * *"': ("tests/pipeline/test_servers.py", '"serve"'),
    # This one trains for minutes; its output is a page of the documentation.
    "python -m benchmarks.distillation": ("docs/distillation.md", "python -m benchmarks.distillation"),
    # This test suite, its environment, and commands that take hours.
    "make test": ("Makefile", "\ntest:"),
    "make test-slow": ("Makefile", "\ntest-slow:"),
    "source .venv/bin/activate": ("tests/e2e/conftest.py", '"PATH"'),
    "make results": ("Makefile", "\nresults:"),
    "make web": ("Makefile", "\nweb:"),
    "medistill web exports/<student>": ("tests/unit/web/test_serve.py", '"web"'),
}
"""A command that is not typed here, a file that runs or explains it, and a text in that file."""


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


@pytest.fixture(scope="module")
def cloned(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone beside a small folder that looks like ChestX-ray14."""
    return clone(root, tmp_path_factory.mktemp("readme") / "clone")


def blocks(text: str, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(text) if kind == language]


def test_every_command_is_typed_here_or_elsewhere(readme, root):
    lines = [line for block in blocks(readme, "") for line in block.splitlines() if line]
    found = {command for line in lines for command in line.split(" && ")} | set(INLINE.findall(FENCE.sub("", readme)))
    assert found == TYPED.keys() | ELSEWHERE.keys()
    for file, text in ELSEWHERE.values():
        assert text in (root / file).read_text(), f"{file} has no {text}"


def test_the_commands_of_the_readme_run(cloned):
    cloned.run("medistill", "phantom", "drawn", "--images", "40", "--size", "64")
    for typed in TYPED.values():
        if " phantom " not in typed:
            cloned.run(*shlex.split(typed))


def test_the_settings_in_the_readme_are_valid(readme, cloned, root, tmp_path):
    params = tiny(yaml.safe_load((root / "params.yaml").read_text()))
    for block in blocks(readme, "yaml"):
        for section, values in yaml.safe_load(block).items():
            params[section] |= values
    (tmp_path / "ChestX-ray14").mkdir()
    params["data"]["root"] = str(tmp_path / "ChestX-ray14")
    cloned.write_params(params)
    cloned.run("python", "-m", "pipeline", "check")


def test_the_python_code_in_the_readme_runs(readme, cloned):
    for block in blocks(readme, "python"):
        cloned.run("python", "-c", block)
