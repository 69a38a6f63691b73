"""Imports point one way, and a command imports no more than it needs."""

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import SOURCE, imports, within

LIBRARY = sorted((SOURCE / "medistill").rglob("*.py"))


def imports_of(path: Path, *, top: bool = False) -> list[str]:
    package = ".".join(path.relative_to(SOURCE).parent.parts)
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), package=package, top=top))


def modules_of(*folders: str) -> list[Path]:
    found = [path for path in LIBRARY if path.relative_to(SOURCE / "medistill").parts[0] in folders]
    assert found, f"nothing in {folders}"
    return found


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_the_reader_of_imports_sees_all_of_them():
    code = (
        "import os.path as p, torch\n"
        "from typing import TYPE_CHECKING\n"
        "from . import near\n"
        "from .files import atomic\n"
        "from ..errors import UserError\n"
        "if TYPE_CHECKING:\n    import pandas\n"
        "try:\n    import timm.data\nexcept ImportError:\n    pass\n"
        "class A:\n    import dvc\n    def f(self):\n        from mlflow import log\n"
    )
    seen = list(imports(ast.parse(code), package="medistill.data"))
    assert seen == [
        *("os.path", "torch", "typing.TYPE_CHECKING", "medistill.data.near", "medistill.data.files.atomic"),
        *("medistill.errors.UserError", "pandas", "timm.data", "dvc", "mlflow.log"),
    ]
    at_top = list(imports(ast.parse(code), package="medistill.data", top=True))
    assert set(seen) - set(at_top) == {"pandas", "mlflow.log"}
    assert within("torch.nn", "torch")
    assert not within("torchvision", "torch")


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_knows_nothing_of_the_wiring(path):
    wiring = ("pipeline", "prefect", "mlflow", "great_expectations", "dvc", "tests")
    assert not [name for name in imports_of(path) if within(name, *wiring)]


@pytest.mark.parametrize("path", modules_of("runtime"), ids=name_of)
def test_the_runtime_needs_numpy_pillow_and_onnxruntime_alone(path):
    own = ("errors", "images", "files", "checksums", "kinds", "layout", "runtime", "task", "text")
    own = tuple(f"medistill.{name}" for name in own)
    for name in imports_of(path):
        standard = name.split(".")[0] in sys.stdlib_module_names
        assert standard or within(name, "numpy", "PIL", "onnxruntime", *own), name


LIGHT = [
    *(
        "errors",
        "files",
        "images/codestream",
        "images/decode",
        "images/errors",
        "images/frame",
        "images/limits",
        "checksums",
        "kinds",
        "layout",
        "task",
        "telemetry",
        "text",
        "__init__",
    ),
]


@pytest.mark.parametrize("file", LIGHT)
def test_what_the_runtime_stands_on_is_light(file):
    for name in imports_of(SOURCE / "medistill" / f"{file}.py"):
        own = ("errors", "files", "images", "kinds", "layout", "telemetry", "text")
        own = tuple(f"medistill.{name}" for name in own)
        assert name.split(".")[0] in sys.stdlib_module_names or within(name, "numpy", "PIL", *own), name


@pytest.mark.parametrize("file", ["dicom.py", "dicom_display.py"])
def test_pydicom_is_imported_when_a_dicom_file_is_met_and_not_before(file):
    path = SOURCE / "medistill" / "images" / file
    optional = ("pydicom", "imagecodecs")
    own = ("medistill.images",)
    for name in imports_of(path):
        standard = name.split(".")[0] in sys.stdlib_module_names
        assert standard or within(name, "numpy", "PIL", *own, *optional), name
    assert not [name for name in imports_of(path, top=True) if within(name, *optional)]
    assert not loaded_by("import medistill.runtime.predictor") & {*optional}


@pytest.mark.parametrize("path", modules_of("audit", "data", "evaluation", "gate", "metrics"), ids=name_of)
def test_data_and_evaluation_do_not_import_networks_at_the_top(path):
    assert not [name for name in imports_of(path, top=True) if within(name, "torch", "timm", "torchvision")]


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after `code` ran in a fresh interpreter."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_data_and_evaluation_do_not_import_networks_by_a_detour():
    modules = [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in modules_of("audit", "data", "evaluation", "gate", "metrics")
    ]
    loaded = loaded_by("\n".join(f"import {module}" for module in modules))
    assert "numpy" in loaded
    assert not loaded & {"torch", "timm", "torchvision", "mlflow", "prefect", "great_expectations", "dvc"}


def test_the_command_line_imports_nothing_but_typer():
    heavy = {"numpy", "PIL", "onnxruntime", "pandas", "torch", "timm", "yaml"}
    assert not loaded_by("import medistill.cli") & heavy


def seconds(*command: str) -> float:
    """Processor time of a command, the minimum of five runs, to exclude the machine's other load."""
    least = float("inf")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


def test_importing_the_library_is_cheaper_than_importing_numpy():
    assert seconds("-c", "import medistill") < seconds("-c", "import numpy")


def test_help_costs_little_more_than_typer_itself():
    assert seconds("-m", "medistill.cli", "--help") < 2 * seconds("-c", "import typer.main, typer.core") + 0.1
