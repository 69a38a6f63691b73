"""Paths are spelt in layout.py alone, and keys of files between stages in records/ alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medistill.layout import HERE, Layout

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("src", "pipeline") for path in (ROOT / folder).rglob("*.py"))
LAYOUT = ROOT / "src" / "medistill" / "layout.py"

FILES = (
    *("audit.json", "boxes.parquet", "bundle.json", "comparisons.csv", "config.json", "dataset.json"),
    *("evaluation.json", "gate.json", "history.csv", "history.jsonl", "image_ids.npy", "knowledge.json"),
    *("latency.json", "manifest.parquet", "metrics.json", "MODEL_CARD.md", "model.onnx", "model.safetensors"),
    *("parity.json", "predictions.parquet", "progress.json", "promotion.json", "quarantine.csv", "record.json"),
    *("model_card.xml", "tripod-ai.md", "stress.json"),
    *("train_ids.npz", "validation.json", "dvc.lock", "mlflow.db", "mlruns", "params.yaml.before"),
)
FOLDERS = (
    *("assistants", "data/assistants", "data/knowledge", "data/processed", "data/raw/phantom", "exports", "models"),
    *("models/students", "models/teachers", "reports", "registry", ".checkpoints", ".cache/ingest", ".cache/export"),
)

UNTYPED = 15
"""The limit for `dict[str, Any]` and `JsonObject`, types that do not name their keys; it is only ever lowered."""

READS_JSON = {
    "files.py": "the reader itself",
    "checksums.py": "holds records against their checksums",
    "records/base.py": "makes objects of what was read",
    "web/build.py": "package.json of a library has what npm says",
    "runtime/bundle.py": "runs where pydantic is not installed, and checks each key by hand",
    "models/weights.py": "config.json beside weights may be anybody's; of what it says `Beside` is made",
    "pipeline/history.py": "history.jsonl has a record in each line",
}
"""Modules that may read JSON without a record's class, and why."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of a module that are values, with their lines: neither docstrings nor parts of messages."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passing = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    passing |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passing:
            yield node.lineno, node.value


def is_path(text: str) -> bool:
    """Whether a string is one of the paths, or begins or ends with one."""
    return (
        text in FILES
        or any(text.endswith(f"/{name}") and " " not in text for name in FILES)
        or any("/" in name and (text == name or text.startswith(f"{name}/")) and " " not in text for name in FOLDERS)
    )


def is_folder_in_a_path(path: Path) -> Iterator[int]:
    """Lines at which a folder's bare name, such as `reports`, is a part of a path."""
    bare = {name for name in FOLDERS if "/" not in name}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Path":
            parts = node.args[:1]
        if any(isinstance(part, ast.Constant) and part.value in bare for part in parts):
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_file_spells_a_path_of_the_checkout(path):
    if path == LAYOUT:
        return
    spelt = [f"line {line}: {text}" for line, text in texts(path) if is_path(text)]
    spelt += [f"line {line}" for line in is_folder_in_a_path(path)]
    assert not spelt


def test_the_reader_of_strings_sees_paths_and_no_messages(tmp_path):
    code = (
        '"""models/teachers"""\n'
        'a = Path("models/teachers") / name / "config.json"\n'
        'raise UserError(f"{file}: config.json is damaged")\n'
        'b = root / "reports" / "gate.json"\n'
        'c = "see reports/index.html for all"\n'
        'd = {"models": 1}\n'
    )
    file = tmp_path / "module.py"
    file.write_text(code)
    found = {(line, text) for line, text in texts(file) if is_path(text)}
    assert found == {(2, "models/teachers"), (2, "config.json"), (4, "gate.json")}
    assert set(is_folder_in_a_path(file)) == {4}


def test_every_file_is_found_from_any_root(tmp_path):
    layout = Layout(tmp_path)
    assert layout.model("big").config == tmp_path / "models/teachers/big/config.json"
    assert layout.model("small-kd-0").folder == tmp_path / "models/students/small-kd-0"
    assert layout.export("small-kd-0").onnx == tmp_path / "exports/small-kd-0/model.onnx"
    assert layout.reports.evaluation("big") == tmp_path / "reports/evaluation/big.json"
    assert str(HERE.reports.explain.metrics) == "reports/explain/metrics.json"
    assert {path.name for path in layout.written_by_stages()} >= {"processed", "assistants", "exports"}


def test_what_dvc_writes_is_where_layout_says(root):
    text = re.sub(r"\$\{[^}]*\}", "x-y-0", (root / "dvc.yaml").read_text(encoding="utf-8"))
    for path in (
        *(
            HERE.phantom,
            HERE.processed.folder,
            HERE.knowledge("x-y-0").folder,
            HERE.assistant_knowledge("x-y-0").folder,
        ),
        *(HERE.teacher("x-y-0").folder, HERE.student("x-y-0-x-y-0-x-y-0").folder, HERE.reports.metrics),
        *(HERE.reports.audit, HERE.reports.validation, HERE.reports.data_docs, HERE.reports.evaluations),
        *(HERE.reports.evaluation_record, HERE.reports.comparisons, HERE.reports.rocs, HERE.reports.explain.folder),
        *(HERE.export("x-y-0-x-y-0-x-y-0").folder, HERE.reports.stress.folder, HERE.reports.gate, HERE.reports.page),
        *(HERE.reports.all_licenses, HERE.reports.licenses("x-y-0-x-y-0-x-y-0")),
    ):
        assert re.search(rf'[\s\["]{re.escape(path.as_posix())}[\s\],"/]', text), path


def reads_json(path: Path) -> bool:
    """Whether a module reads JSON or a record as a dict, not as an object of a record's class."""
    readers = {"read_json", "read_json_or", "read_record", "require_own", "require_whole", "json.load", "json.loads"}
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) in readers for node in nodes)


def test_json_is_read_as_records():
    found = {path.relative_to(ROOT).as_posix().removeprefix("src/medistill/") for path in SOURCES if reads_json(path)}
    assert found == READS_JSON.keys()


def untyped(path: Path) -> int:
    """Number of types in a module that do not name the keys of a dict."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    dicts = sum(isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]" for node in nodes)
    return dicts + sum(isinstance(node, ast.Name) and node.id == "JsonObject" for node in nodes)


def test_few_dicts_are_untyped():
    found = {path.relative_to(ROOT).as_posix(): count for path in SOURCES if (count := untyped(path))}
    assert sum(found.values()) <= UNTYPED, found
