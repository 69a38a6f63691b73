"""However a file is damaged between two stages: one line names it, or the numbers are the same as before.

Each kind of file is cut off, changed in one byte, emptied, removed and replaced by a folder; in formats with keys,
columns or types, one of these is removed or changed. `KINDS` says what reads which files; a new kind is a new row.
"""

import contextlib
import functools
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finished_project import STUDENTS, TEACHER, inside, write_params
from safetensors.torch import load_file, save

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.distillation import knowledge, teachers
from medistill.errors import UserError
from medistill.gate.facts import collect_facts
from medistill.layout import Layout
from medistill.models.weights import load_model
from medistill.params import load_params
from medistill.report import live
from medistill.runtime.predictor import Predictor
from pipeline import trainings
from pipeline.stages import distill, evaluate, explain, report, teach, train_teacher, validate
from tests.trees_tiles import settings, write_csv

KD = STUDENTS[1]

# Readers of the files, as the stages read them: each must return the same as before the damage.


def contents(*patterns: str) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for pattern in patterns for file in sorted(Path().glob(pattern))}


def read_data() -> list[bytes]:
    dataset = Dataset.open()
    arrays = [dataset.images(dataset.manifest), dataset.targets(dataset.manifest)]
    tables = [dataset.manifest, dataset.boxes()]
    return [*(array.tobytes() for array in arrays), *(table.to_csv().encode() for table in tables)]


def read_masks() -> bytes:
    dataset = Dataset.open(Path("masked"))
    return dataset.masks(dataset.manifest[dataset.manifest["mask_row"] >= 0]).tobytes()


def measure() -> dict[str, bytes]:
    evaluate.main([])
    return contents("reports/metrics.json", "reports/comparisons.csv")


def show() -> dict[str, bytes]:
    explain.main([])
    return contents("reports/explain/*")


def judge() -> list[dict[str, Any]]:
    return [facts.to_json() for facts in collect_facts(load_params().candidates(), Layout())]


def load() -> list[Any]:
    """As a stage that exports or explains a model or lets it answer."""
    models = [load_model(folder) for folder in sorted(Path("models").glob("*/*"))]
    return [(model.config, [value.tolist() for value in model.state_dict().values()]) for model in models]


def read_reports() -> dict[str, bytes]:
    report.main([])
    return contents("reports/gate.json", "reports/index.html")


def validate_again() -> dict[str, bytes]:
    validate.main([])
    return contents("reports/validation/validation.json")


def predict() -> dict[str, Any]:
    predictor = Predictor(Path("exports") / "-".join(KD))
    return vars(predictor.bundle) | {"logits": predictor.logits(np.zeros((1, 1, 32, 32), np.uint8)).tolist()}


def train_again() -> dict[str, Any]:
    """The trained model and its records, except for times."""
    distill.main(KD)
    folder = Path("models/students") / "-".join(KD)
    history = pd.read_csv(folder / "history.csv").drop(columns="images_per_second")
    names = ("model.safetensors", "predictions.parquet", "train_ids.npz")
    return contents(*(str(folder / name) for name in names)) | {"history": history.to_csv()}


def teach_again() -> dict[str, bytes]:
    teach.main([TEACHER])
    return contents("data/knowledge/*/*")


def ingest_again() -> dict[str, bytes]:
    ingest(load_params().data, Path("data/processed"), Path(".cache/ingest"))
    return contents("data/processed/*")


def import_again() -> dict[str, bytes]:
    """Import the teacher from its weights and the files beside them."""
    shutil.rmtree("models/teachers", ignore_errors=True)
    train_teacher.main([TEACHER])
    return contents("models/teachers/*/predictions.parquet", "models/teachers/*/train_ids.npz")


# Interruptions, and other ways by which a project gets its files.


def interrupt_training() -> None:
    shutil.rmtree(".checkpoints/distilled")

    class Interrupted(live.LiveCurves):
        def step(self, report: dict[str, Any]) -> None:
            if report["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(trainings, "LiveCurves", Interrupted)
        distill.main(KD)


def interrupt_teacher() -> None:
    asked = []

    def ask(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) > 5:
            raise KeyboardInterrupt
        return teachers_ask(*arguments)

    teachers_ask = teachers.ask
    write_params(Path(), teach={"batch_size": 16})
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(teachers, "ask", ask)
        patch.setattr(knowledge, "EVERY", 0.0)
        teach.main([TEACHER])


def give_weights() -> None:
    shutil.copytree(f"models/teachers/{TEACHER}", "friend")
    weights = {"arch": "test_resnet", "weights": "friend/model.safetensors", "frozen": True}
    write_params(Path(), teachers={TEACHER: weights})


def ingest_masks() -> None:
    options = write_csv(Path("tables"))
    ingest(settings("csv", Path("tables"), options=options, split="official"), Path("masked"), Path("cache of masks"))


@dataclass(frozen=True)
class Kind:
    """Files and what reads them.

    Attributes:
        files: patterns of paths.
        read: reads the files; its result must be the same, or it raises a `UserError` that names the file.
        heals: `read` must not raise, since the damaged file can be made again.
        before: makes the files, if the project does not have them.
        other: another result that `read` may return, for files that may be left out.
    """

    files: tuple[str, ...]
    read: Callable[[], Any]
    heals: bool = False
    before: Callable[[], None] = lambda: None
    other: Callable[[Path], Any] | None = None


def without(file: Path) -> str:
    """The page of running trainings without one of them."""
    others = [other for other in Path("reports/live").glob("*.json") if other != file]
    shutil.rmtree("others", ignore_errors=True)
    Path("others").mkdir()
    for other in others:
        shutil.copy2(other, "others")
    return live.page(Path("others"))


FOLDERS = ("evaluation", "roc", "explain", "stress")
"""Of the reports that the page is made of."""

KINDS = {
    "data set": Kind(("data/processed/[!q]*",), read_data),
    "masks": Kind(("masked/masks-*",), read_masks, before=ingest_masks),
    "quarantine": Kind(("data/processed/quarantine.csv",), read_reports),
    "models to measure": Kind(("models/*/*/*",), measure),
    "models to explain": Kind(("models/*/*/*",), show),
    "models to judge": Kind(("models/*/*/*",), judge),
    "models to load": Kind(("models/*/*/*",), load),
    "weights": Kind(
        ("friend/model.safetensors", "friend/config.json", "friend/train_ids.npz"), import_again, before=give_weights
    ),
    "answers": Kind(("data/knowledge/*/*",), train_again),
    "reports to judge": Kind(("reports/*.json", "reports/*.csv", "reports/evaluation/*", "reports/roc/*"), judge),
    "reports": Kind(
        ("reports/*.json", "reports/*.csv", *(f"reports/{name}/*" for name in FOLDERS)),
        read_reports,
    ),
    "validation": Kind(("reports/validation/validation.json",), read_reports),
    "audit": Kind(("reports/validation/audit.json",), validate_again),
    "licences to judge": Kind(("reports/licenses/small-*",), judge),
    "licences": Kind(("reports/licenses/*",), read_reports),
    "exports to judge": Kind(("exports/*/*",), judge),
    "exports": Kind(("exports/*/*",), read_reports),
    "bundle": Kind(("exports/*/bundle.json", "exports/*/model.onnx"), predict),
    "live page": Kind(("reports/live/*.json",), lambda: live.page(Path("reports/live")), True, other=without),
    "finished copy": Kind((f".checkpoints/distilled/{'-'.join(KD)}/*/model/*",), train_again, True),
    "training's state": Kind((".checkpoints/distilled/*/*/last-*.pt",), train_again, True, before=interrupt_training),
    "part of answers": Kind((".checkpoints/teach/*/*",), teach_again, True, before=interrupt_teacher),
    "decoded images": Kind((".cache/ingest/*/*/*",), ingest_again, True),
}

NOT_READ = {Path("reports/gate.json")}
"""Files that no code reads."""


# Damages.


def cut(file: Path, rng: np.random.Generator) -> bytes:
    content = file.read_bytes()
    return content[: rng.integers(len(content))]


def flip(file: Path, rng: np.random.Generator) -> bytes:
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= rng.integers(1, 256)
    return bytes(content)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each (dict or list, key or index) within a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def remove_key(file: Path, rng: np.random.Generator) -> bytes | None:
    if file.suffix == ".json":
        value = json.loads(file.read_text(encoding="utf-8"))
        found = list(places(value))
        within, key = found[rng.integers(len(found))]
        del within[key]
        return json.dumps(value, indent=2, ensure_ascii=False).encode()
    if file.suffix in (".parquet", ".csv"):
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype=str)
        return write_table(file, table.drop(columns=table.columns[rng.integers(len(table.columns))]))
    if file.suffix in (".npz", ".safetensors", ".pt"):
        values = read_values(file)
        del values[sorted(values)[rng.integers(len(values))]]
        return write_values(file, values)
    return None


def change_type(file: Path, rng: np.random.Generator) -> bytes | None:
    if file.suffix == ".json":
        value = json.loads(file.read_text(encoding="utf-8"))
        found = list(places(value))
        within, key = found[rng.integers(len(found))]
        others = [other for other in ([], {}, "x", 1, 0.5, None, True) if type(other) is not type(within[key])]
        within[key] = others[rng.integers(len(others))]
        return json.dumps(value, indent=2, ensure_ascii=False).encode()
    if file.suffix in (".parquet", ".csv"):
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype=str)
        if table.empty:
            return None
        name = table.columns[rng.integers(len(table.columns))]
        if file.suffix == ".parquet":
            return write_table(file, table.assign(**{name: table[name].astype(str) + "?"}))
        table.loc[rng.integers(len(table)), name] = "?"
        return write_table(file, table)
    if file.suffix == ".npy":
        buffer, array = io.BytesIO(), np.load(file)
        np.save(buffer, array.astype("U20") if array.dtype.kind == "U" else array.astype(np.int16))
        return buffer.getvalue()
    if file.suffix in (".npz", ".safetensors", ".pt"):
        values = read_values(file)
        name = sorted(values)[rng.integers(len(values))]
        values[name] = values[name].astype(np.int8) if file.suffix == ".npz" else torch.zeros(3, dtype=torch.int8)
        return write_values(file, values)
    return None


def write_table(file: Path, table: pd.DataFrame) -> bytes:
    return table.to_parquet(index=False) if file.suffix == ".parquet" else table.to_csv(index=False).encode()


def read_values(file: Path) -> dict[str, Any]:
    if file.suffix == ".npz":
        with np.load(file) as content:
            return dict(content)
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def write_values(file: Path, values: dict[str, Any]) -> bytes:
    if file.suffix == ".safetensors":
        return save(values)
    buffer = io.BytesIO()
    np.savez(buffer, **values) if file.suffix == ".npz" else torch.save(values, buffer)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[Path, np.random.Generator], bytes | str | None]] = {
    "cut": cut,
    "flip": flip,
    "remove": remove_key,
    "change": change_type,
    "empty": lambda file, rng: b"",
    "missing": lambda file, rng: "missing",
    "folder": lambda file, rng: "folder",
}
"""The content of a file after each kind of damage; None: such a file cannot be damaged in this way."""


def copy(source: Path, target: Path) -> None:
    """Copy a project by hard links; files of an interrupted teacher are really copied, as they are written in place."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=lambda a, b: shutil.copy2(a, b) if "teach" in a else os.link(a, b))


def try_kind(finished: Path, folder: Path, kind: Kind, *, each: int, most: int | None = None) -> int:
    """Damage the files of a kind, `each` times in each way; return the number of cases.

    At most `most` cases are of damage that any reader notices, and five times as many of damage that it may miss.
    """
    prepared, root = folder / "prepared", folder / "project"
    copy(finished, prepared)
    with inside(prepared):
        kind.before()
    with inside(prepared):
        files = sorted({file for pattern in kind.files for file in Path().glob(pattern)} - NOT_READ)

    @functools.cache
    def expected() -> Any:
        copy(prepared, folder / "whole")
        with inside(folder / "whole"):
            return kind.read()

    seen = [(file, name, 0) for file in files for name in ("empty", "missing", "folder")]
    seen += [(file, name, number) for file in files for name in ("cut", "remove") for number in range(each)]
    unseen = [(file, name, number) for file in files for name in ("flip", "change") for number in range(each)]
    if most is not None:
        seen = random.Random(0).sample(seen, min(most, len(seen)))
        unseen = random.Random(0).sample(unseen, min(5 * most, len(unseen)))
    cases = seen + unseen
    for file, name, number in cases:
        copy(prepared, root)
        with inside(root):
            rng = np.random.default_rng([number, *str(file).encode(), *name.encode()])
            content = DAMAGES[name](file, rng)
            if content is None or content == file.read_bytes():
                continue
            file.unlink()
            if content == "folder":
                file.mkdir()
            elif isinstance(content, bytes):
                file.write_bytes(content)
            check(kind, file, expected, f"{file}: {name} {number}")
    return len(cases)


def check(kind: Kind, file: Path, expected: Callable[[], Any], case: str) -> None:
    """Read a damaged file: the result is the same as before, or one line names the file."""
    try:
        found = kind.read()
    except UserError as error:
        message = str(error)
        assert not kind.heals or file.is_dir(), f"{case}: {message}"
        assert file.name in message, f"{case}: {message}"
        assert "\n" not in message, f"{case}: {message}"
        assert len(message) < 500, f"{case}: {message}"
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    else:
        assert found == expected() or (kind.other and found == kind.other(file)), f"{case}: other numbers"


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_one_line_or_the_same_numbers(finished, tmp_path, name):
    try_kind(finished, tmp_path, KINDS[name], each=1, most=1 if KINDS[name].heals else 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_file_damaged_in_many_ways_is_one_line_or_the_same_numbers(finished, tmp_path, name):
    each = 3 if KINDS[name].heals else 8
    assert try_kind(finished, tmp_path, KINDS[name], each=each) >= 3 + 4 * each


def test_a_student_with_any_damaged_file_is_not_judged(finished, tmp_path):
    copy(finished, tmp_path / "project")
    with inside(tmp_path / "project"):
        files = [file for file in Path().glob("*/*/*") if file.parts[0] == "exports" and file.name != "latency.json"]
        files += Path().glob("models/students/*/*")
        assert len(files) == 6 + 2 * 6
        for file in files:
            whole = file.read_bytes()
            for content in (flip(file, np.random.default_rng(0)), None):
                file.unlink()  # it is a link
                if content is not None:
                    file.write_bytes(content)
                with pytest.raises(UserError, match=rf"^{file}: "):
                    judge()
                file.write_bytes(whole)
        assert len(judge()) == 2
