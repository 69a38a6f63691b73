"""Reads the project's own source: its modules, what they import, how long their functions are."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"


def imports(tree: ast.AST, *, package: str = "", top: bool = False) -> Iterator[str]:
    """Dotted names that `tree` imports, `from a import b` as `a.b`; `top`: only those that run on import."""
    for node in ast.iter_child_nodes(tree):
        if top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if top and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node, package=package, top=top)


def within(name: str, *modules: str) -> bool:
    """Whether a dotted name is one of `modules`, or a name in one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the library and of the wiring."""
    found = {}
    for top in (SOURCE, ROOT):
        for path in sorted((top / ("medistill" if top == SOURCE else "pipeline")).rglob("*.py")):
            found[".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def own_imports(module: str) -> frozenset[str]:
    """Modules of the project that `module` imports, at its top or later."""
    path = modules()[module]
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    found = set()
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), package=package):
        while name and name not in modules():  # a name in a module is an import of the module
            name = name.rpartition(".")[0]
        found.add(name)
    return frozenset(found - {"", module})


@dataclass(frozen=True)
class Function:
    """A function of the project.

    Attributes:
        place: its file from the root of the checkout, and its name: `src/medistill/files.py:atomic`.
        lines: number of lines with code: not blank, not only a comment, not in the docstring.
        parameters: number of parameters besides `self` and `cls`.
    """

    place: str
    lines: int
    parameters: int


def functions(path: Path) -> Iterator[Function]:
    """All functions of a file, nested ones included."""
    text = path.read_text(encoding="utf-8")
    code = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_docstring = ast.get_docstring(node, clean=False) is not None
            docstring = range(first.lineno, first.end_lineno + 1) if has_docstring else ()
            lines = (code[n - 1].strip() for n in range(node.lineno, node.end_lineno + 1) if n not in docstring)
            given = node.args
            named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            several = [argument for argument in (given.vararg, given.kwarg) if argument]
            yield Function(
                f"{path.relative_to(ROOT).as_posix()}:{node.name}",
                sum(bool(line) and not line.startswith("#") for line in lines),
                len(named) + len(several) - (named[:1] in (["self"], ["cls"])),
            )
