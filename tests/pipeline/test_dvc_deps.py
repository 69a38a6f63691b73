"""dvc.yaml names the code that decides a stage's outputs: a change of it reruns this stage and no other."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from medistill.data.adapters import formats
from medistill.params import Params
from tests.params import with_several
from tests.pipeline import fake_graph
from tests.source import ROOT, modules, own_imports

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = "src/medistill/params.py"
TRAINING = ("train_teacher", "teach", "train_assistant", "teach_assistant", "distill")

_WORDING = "what is said to people"
_BEFORE = "refuses what cannot be run before hours are spent on it; what is run is the same"
_CHECKED = "typed reading and writing of what lies between stages; a wrong key is an error"

EXCEPTIONS = {
    "src/medistill/__init__.py": "the version",
    "pipeline/stage.py": "how a stage ends: exit status and words",
    "src/medistill/checksums.py": "whether a file is whole; a damaged one is an error",
    "src/medistill/errors.py": _WORDING,
    "src/medistill/files.py": "writes bytes that it is given, whole or not at all",
    "src/medistill/layout.py": "where files lie; DVC compares the places itself",
    PARAMS: "reads params.yaml, which DVC compares itself; defaults stand in the sections",
    "src/medistill/records": _CHECKED,
    "src/medistill/settings.py": "refuses values; defaults stand in the sections",
    "src/medistill/text.py": _WORDING,
}
"""Files and folders that stages import and dvc.yaml does not name, each with the reason why they change no output.

Their own imports change no output either.
"""

IN_STAGES = {
    **{("src/medistill/report/live.py", stage): "a page to watch, which is no output" for stage in TRAINING},
    **{("pipeline/preflight.py", stage): _BEFORE for stage in ("train_teacher", "train_assistant", "distill")},
    **{
        ("src/medistill/task.py", stage): "the name of the task; no probability is computed"
        for stage in ("ingest", "audit", "validate")
    },
    **{
        (f"src/medistill/{room}/settings.py", "validate"): "of networks the user's weights alone are asked for"
        for room in ("training", "distillation")
    },
    **{("src/medistill/data/reading/tables.py", stage): "reads a table of text as it is" for stage in TRAINING},
    ("src/medistill/distillation/settings.py", "evaluate"): "of recipes the teachers alone are asked for",
    **{
        ("src/medistill/distillation/settings.py", stage): "of teachers the names alone are asked for"
        for stage in ("explain", "stress")
    },
    **{
        ("src/medistill/augmentation.py", stage): "frames are seen as they are"
        for stage in ("explain", "stress", "export")
    },
    (PARAMS, "export"): "whether there is such a student",
    ("src/medistill/report/style.css", "export"): "a card is text, which has no style",
}
"""Such exceptions for single stages: (file, stage) -> reason."""

KEYS_ONLY = {"run", "knowledge_folder"}
"""Parts of `Params` that are no settings: they decide which stages there are and where these write."""

SECTIONS = {"members": "teachers", "teacher_models": "teachers", "recipe_of": "recipes"}
"""Methods of `Params` that give the settings of a section."""


@cache
def module_of(file: str) -> str:
    return {path: name for name, path in modules().items()}[ROOT / file]


def file_of(module: str) -> str:
    return modules()[module].relative_to(ROOT).as_posix()


def within(file: str, places: Iterator[str] | list[str]) -> bool:
    return any(file == place or file.startswith(f"{place}/") for place in places)


def deps_of(stage: str, format: str = "chestxray14") -> list[str]:
    """The code that dvc.yaml names."""
    deps = [dep.replace("${data.format}", format) for dep in STAGES[stage]["deps"]]
    return [dep for dep in deps if within(dep, ["src", "pipeline"])]


@cache
def sections_of(file: str) -> set[str]:
    """Settings files of the sections that a file reads as `params.SECTION`, and params.py for anything else."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params":
            section = Params.model_fields.get(SECTIONS.get(node.attr, node.attr))
            if node.attr in KEYS_ONLY:
                continue
            kind = section.annotation if section else Params
            kind = (get_args(kind) or (kind,))[-1]  # the value type of a section that is a dict by name
            while get_args(kind):  # of several kinds the first one; all stand in the same file
                kind = get_args(kind)[0]
            found.add(file_of(kind.__module__))
    return found


@cache
def templates_of(file: str) -> list[str]:
    """Templates and style sheets that a module or template names."""
    text = (ROOT / file).read_text(encoding="utf-8")
    pages = [f"templates/{name}.html.jinja" for name in re.findall(r"render_page\(\s*\"(\w+)\"", text)]
    cards = [f"templates/{name}.md.jinja" for name in re.findall(r"render_card\(\s*\"(\w+)\"", text)]
    others = re.findall(r"\"((?:templates|sections)/[\w.]+\.jinja|style\.css)\"", text)
    return [f"src/medistill/report/{name}" for name in [*pages, *cards, *others]]


def exceptions_of(stage: str) -> list[str]:
    return [*EXCEPTIONS, *(place for place, where in IN_STAGES if where == stage)]


@cache
def needed(stage: str, format: str = "chestxray14") -> dict[str, str]:
    """File -> who imports it, of all files that a stage's script reaches.

    Imports of exceptions and of settings are not followed: of a section only its own defaults matter.
    """
    script = STAGES[stage]["cmd"].split()[2]
    found = {file_of(script): "dvc.yaml"}
    if stage == "ingest":
        found[f"src/medistill/data/adapters/{format}.py"] = "params.yaml"
    waiting = list(found)
    while waiting:
        file = waiting.pop()
        if within(file, exceptions_of(stage)) or Path(file).name == "settings.py":
            continue
        reached = dict.fromkeys(templates_of(file), file)
        if file.endswith(".py"):
            reached |= {file_of(module): file for module in own_imports(module_of(file))}
            reached |= dict.fromkeys(sections_of(file), f"{file} (params)")
        waiting += reached.keys() - found.keys()
        found |= {other: by for other, by in reached.items() if other not in found or by.endswith("(params)")}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_that_a_stage_reaches_is_named_in_dvc_yaml(stage):
    for format in formats() if stage == "ingest" else ("chestxray14",):
        excepted = exceptions_of(stage)
        for file, by in needed(stage, format).items():
            if file == PARAMS and by.endswith("(params)") and (PARAMS, stage) not in IN_STAGES:
                excepted = [place for place in excepted if place != PARAMS]
            assert within(file, [*deps_of(stage, format), *excepted]), f"{file}, which {by} imports"


@pytest.mark.parametrize("stage", STAGES)
def test_every_room_in_a_stages_deps_is_imported_by_it(stage):
    files = {file for format in formats() for file in needed(stage, format)}
    assert [dep for dep in deps_of(stage) if not any(within(file, [dep]) for file in files)] == []


def test_every_exception_is_needed():
    reached = {stage: set(needed(stage)) for stage in STAGES}
    assert [
        place for place in EXCEPTIONS if not any(within(f, [place]) for files in reached.values() for f in files)
    ] == []
    assert [(place, stage) for place, stage in IN_STAGES if place not in reached[stage]] == []


def test_trainings_and_their_fingerprints_follow_the_same_code():
    from medistill.training.spec import ROOMS_THAT_DECIDE_A_TRAINING as ROOMS

    for stage in TRAINING:
        library = [dep.removeprefix("src/medistill/") for dep in deps_of(stage) if dep.startswith("src/")]
        assert sorted(library) == sorted(ROOMS), stage


def test_no_training_depends_on_code_of_later_stages():
    later = [f"src/medistill/{room}" for room in ("evaluation", "explain", "stress", "export", "gate", "report")]
    assert not [dep for stage in TRAINING for dep in deps_of(stage) if within(dep, later)]
    assert not [dep for dep in deps_of("export") if within(dep, ["src/medistill/gate"])]


ASK_DVC = """
import json, re, sys
from pathlib import Path
from dvc.repo import Repo

def stale():
    return sorted({name.partition("@")[0] for name in Repo().status()})

Repo().commit(force=True)
found = {"": stale()}
for file in json.loads(sys.argv[1]):
    path = Path(file)
    before = path.read_text(encoding="utf-8") if path.exists() else None
    other = re.sub(r"(default=|= )([0-9])", r"\\g<1>1\\g<2>", before or "", count=1)  # of settings, another default
    path.parent.mkdir(exist_ok=True)
    path.write_text(other + "# changed\\n", encoding="utf-8")
    found[file] = stale()
    path.unlink() if before is None else path.write_text(before, encoding="utf-8")
print(json.dumps(found))
"""
"""Commits the present files as outputs of all stages, and lists for each file the stages that its change reruns."""

TRAINS = set(TRAINING)

RUNS_AGAIN = {
    "": set(),
    "src/medistill/ancestry.py": {"licenses"},
    "src/medistill/phantom/settings.py": {"phantom", "licenses"},
    "src/medistill/data/settings.py": {"ingest", "validate", "licenses"},
    "src/medistill/augmentation.py": TRAINS,
    "src/medistill/training/settings.py": TRAINS | {"licenses"},
    "src/medistill/distillation/settings.py": TRAINS | {"licenses"},
    "src/medistill/models/settings.py": TRAINS | {"licenses", "explain", "stress", "export"},
    "src/medistill/evaluation/settings.py": {"evaluate", "stress"},
    "src/medistill/explain/settings.py": {"explain"},
    "src/medistill/stress/settings.py": {"stress"},
    "src/medistill/export/settings.py": {"export"},
    "src/medistill/gate/settings.py": {"report"},
    "src/medistill/report/page.py": {"report"},
    "src/medistill/report/sections/method.html.jinja": {"report"},
    "src/medistill/report/html.py": {"validate", "explain", "export", "report"},
    "src/medistill/data/adapters/a_new_one.py": set(),
    "src/medistill/data/adapters/padchest.py": set(),
    "src/medistill/data/adapters/chestxray14.py": {"ingest"},
    "src/medistill/text.py": set(),
    "data/unlabelled/README.md": set(),
    "data/unlabelled/a/scan.png": {"ingest"},
}
"""The stages that a change of each file reruns directly; DVC reruns later stages only if these outputs change."""


def places(run: dict[str, list[Any]]) -> Iterator[str]:
    """All outputs, and the single files in them that stages read."""
    for stage in STAGES.values():
        keys = list(stage.get("matrix", ()))
        single = [dep for dep in stage["deps"] if dep.startswith(("data/processed/", "reports/licenses/"))]
        for cell in product(*(run[f"{key}s"] for key in keys)):
            for place in stage["outs"] + stage.get("metrics", []) + single:
                for key, value in zip(keys, cell, strict=True):
                    place = place.replace(f"${{item.{key}}}", str(value))
                yield place


@pytest.fixture(scope="module")
def stale(tmp_path_factory) -> dict[str, list[str]]:
    """What DVC would rerun in a checkout in which all stages have run, when one file at a time is changed."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("src", "pipeline", "splits", "data/unlabelled"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = with_several()
    params["teachers"]["between"] = {"arch": "resnet18", "recipe": "kd"}
    params["run"]["assistants"] = ["between"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for place in places(params["run"]):
        file = folder / place if Path(place).suffix else folder / place / "file"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(place)
    environment = fake_graph.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=folder, env=environment, check=True)
    command = [sys.executable, "-c", ASK_DVC, json.dumps([file for file in RUNS_AGAIN if file])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("file", RUNS_AGAIN)
def test_a_changed_file_reruns_exactly_the_stages_that_depend_on_it(stale, file):
    assert set(stale[file]) == RUNS_AGAIN[file]
