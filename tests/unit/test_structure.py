"""Structure of the code: rooms (packages) import downwards, there are no import cycles, and nothing is too long."""

from collections import defaultdict
from pathlib import Path

from tests.source import ROOT, Function, functions, modules, own_imports

GROUND_FLOOR = (
    *("telemetry", "errors", "text", "kinds", "nih", "files", "plain_yaml", "settings", "layout", "checksums"),
    *("task", "records", "front_door"),
)
"""Modules outside rooms: every module may import them, and each imports only those before it."""

ROOMS = (
    *(
        *GROUND_FLOOR,
        "images",
        "runtime",
        "web",
        "metrics",
        "data",
        "phantom",
        "audit",
        "models",
        "augmentation",
        "views",
    ),
    *("training", "distillation"),  # training takes any loss; distillation builds trainings by a recipe on it
    *("evaluation", "explain", "stress", "export", "gate", "report", "params", "ancestry", "cli", "pipeline"),
)
"""Rooms from the bottom up: a module imports from its own room and from those before it."""

UPWARDS = {
    ("training", "distillation"): "what a training is includes its recipe: settings alone, without any loss",
    ("export", "report"): "a model card lies in the exported folder",
}
"""Exceptions to the order: (importing room, imported room), and why."""

CIRCLES: dict[frozenset[str], str] = {}

LINES = 500
LONG_FILES = {
    "src/medistill/distillation/functional.py": "all losses side by side, each with its formula and its source",
}

LINES_OF_CODE = 60
LONG_FUNCTIONS = {}

PARAMETERS = 8
MANY_PARAMETERS = {
    "src/medistill/cli.py:check": "an option of the command line is a parameter of its function",
    "src/medistill/cli.py:compare": "the same",
    "src/medistill/cli.py:evaluate": "the same",
    "src/medistill/distillation/functional.py:asymmetric_bce": "an option of a loss is a parameter of its function",
}

LINES_OF_A_STAGE = 60
LONG_STAGES: dict[str, str] = {}

FILES = [path for top in ("src", "pipeline", "tests", "benchmarks") for path in sorted((ROOT / top).rglob("*.py"))]
FUNCTIONS = [function for path in modules().values() for function in functions(path)]
STAGES = sorted((ROOT / "pipeline" / "stages").glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str:
    top, *rest = module.split(".")
    return rest[0] if top == "medistill" and rest else top


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_reader_of_functions_counts_code(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.source.ROOT", tmp_path)
    (tmp_path / "a.py").write_text(
        'class A:\n    def f(self, a, /, b, *c, d=1, **e):\n        """One.\n\n        Two."""\n        # why\n\n'
        "        def g():\n            return 1\n\n        return g  # so\n"
    )
    assert list(functions(tmp_path / "a.py")) == [Function("a.py:f", 4, 5), Function("a.py:g", 2, 0)]


def test_a_name_of_a_module_and_a_module_of_a_package_are_imports_of_them():
    assert own_imports("medistill.images.decode") >= {"medistill.images.errors", "medistill.text"}
    assert "medistill.images.dicom" in own_imports("medistill.images.decode")  # within a function
    assert all(target in modules() for module in modules() for target in own_imports(module))


def circles() -> list[frozenset[str]]:
    """Sets of modules that all import each other, directly or not (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    least: dict[str, int] = {}
    open_: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = least[module] = len(number)
        open_.append(module)
        for target in own_imports(module):
            if target not in number:
                visit(target)
            if target in open_:
                least[module] = min(least[module], least[target])
        if least[module] == number[module]:
            circle = frozenset(open_[open_.index(module) :])
            del open_[open_.index(module) :]
            if len(circle) > 1:
                found.append(circle)

    for module in modules():
        if module not in number:
            visit(module)
    return found


def test_there_are_no_import_cycles():
    assert {circle: sorted(circle) for circle in circles() if circle not in CIRCLES} == {}


def test_every_module_lies_in_a_room():
    assert {room_of(module) for module in modules()} - {*ROOMS, "medistill"} == set()


def upward_imports() -> dict[tuple[str, str], list[str]]:
    """(importing room, imported room) against the order -> these imports."""
    found = defaultdict(list)
    for module in sorted(set(modules()) - {"medistill"}):
        for target in sorted(own_imports(module) - {"medistill"}):
            rooms = room_of(module), room_of(target)
            if ROOMS.index(rooms[1]) > ROOMS.index(rooms[0]):
                found[rooms].append(f"{module} imports {target}")
    return found


def test_rooms_import_downwards():
    assert {rooms: names for rooms, names in upward_imports().items() if rooms not in UPWARDS} == {}


def test_files_can_be_read_in_one_sitting():
    long = {name_of(path): lines_of(path) for path in FILES if lines_of(path) > LINES}
    assert {name: lines for name, lines in long.items() if name not in LONG_FILES} == {}


def test_functions_fit_on_a_screen():
    assert {f.place: f.lines for f in FUNCTIONS if f.lines > LINES_OF_CODE and f.place not in LONG_FUNCTIONS} == {}


def test_functions_have_few_parameters():
    many = {f.place: f.parameters for f in FUNCTIONS if f.parameters > PARAMETERS}
    assert {place: count for place, count in many.items() if place not in MANY_PARAMETERS} == {}


def test_stages_are_thin():
    long = {name_of(path): lines_of(path) for path in STAGES if lines_of(path) > LINES_OF_A_STAGE}
    assert {name: lines for name, lines in long.items() if name not in LONG_STAGES} == {}


def test_no_exception_is_left_over():
    """An exception that is no longer needed would hide the next violation."""
    needed = {
        *upward_imports(),
        *circles(),
        *(name_of(path) for path in FILES if lines_of(path) > LINES),
        *(name_of(path) for path in STAGES if lines_of(path) > LINES_OF_A_STAGE),
        *(function.place for function in FUNCTIONS if function.lines > LINES_OF_CODE),
        *(function.place for function in FUNCTIONS if function.parameters > PARAMETERS),
    }
    tables = (UPWARDS, CIRCLES, LONG_FILES, LONG_FUNCTIONS, MANY_PARAMETERS, LONG_STAGES)
    assert {key for table in tables for key in table} - needed == set()
