"""The examples in docstrings are right, and every public function of these modules has one."""

import doctest
import importlib
import inspect
import pkgutil
from types import FunctionType, ModuleType

import pytest

from medistill import metrics
from medistill.distillation import functional

MODULES = [
    functional,
    *(importlib.import_module(found.name) for found in pkgutil.iter_modules(metrics.__path__, "medistill.metrics.")),
]
WITHOUT = {"sum_over_processes": "of one process it is the value itself"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0  # doctest prints the differences


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_function_has_an_example(module: ModuleType) -> None:
    functions = inspect.getmembers(module, inspect.isfunction)
    bare = {name for name, function in functions if _is_public(module, function) and not _has_example(function)}
    assert bare == {name for name in WITHOUT if hasattr(module, name)}


def _is_public(module: ModuleType, function: FunctionType) -> bool:
    return function.__module__ == module.__name__ and not function.__name__.startswith("_")


def _has_example(function: FunctionType) -> bool:
    return "\n    Example:\n        >>> " in (function.__doc__ or "")
