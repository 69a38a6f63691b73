"""registry/history.jsonl: what is read from it; a damaged line is named and never read as another."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medistill.errors import UserError
from medistill.layout import HERE
from medistill.records.gate import Release
from pipeline.history import CHECKSUM, Line, append, champions, looks, read_history, withdrawn

RELEASE = Release(model="a", onnx_sha256="a", val_macro_auroc=0.5, dataset_fingerprint="d", version="1")


def line(action: str, model: str, previous: str | None = None, **more: Any) -> dict[str, Any]:
    def one(name: str) -> dict[str, Any]:
        return {"model": name, "onnx_sha256": name, "val_macro_auroc": 0.5, "dataset_fingerprint": "d", "version": "1"}

    return {"time": action, "action": action, "champion": one(model), "previous": previous and one(previous), **more}


def read(content: dict[str, Any]) -> Line:
    return Line.model_validate_json(json.dumps(content))


def test_rollback_returns_to_the_last_champion_that_was_not_withdrawn() -> None:
    lines = [line("promoted", "a"), line("promoted", "b"), line("kept", "b"), line("promoted", "c")]
    history = [read(entry) for entry in lines]

    assert [model.model for model in champions(history)] == ["a", "b", "c"]
    history.append(read(line("rolled_back", "b", "c")))
    assert [model.model for model in champions(history)] == ["a", "b"]
    history.append(read(line("rolled_back", "a", "b")))
    assert [model.model for model in champions(history)] == ["a"]
    assert withdrawn(history) == {"b": "rolled_back", "c": "rolled_back"}
    assert champions([]) == []


def test_looks_count_different_models_on_the_same_data() -> None:
    looked = [("1", "x"), ("2", "x"), ("2", "x"), ("3", "y")]
    history = [read(line("promoted", "a", evidence=e, data=d)) for e, d in looked]

    assert looks(history) == 1
    assert looks(history[:3]) == 2
    assert looks([]) == 0


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A history of three lines as `append` writes them."""
    for action, model, previous in (("promoted", "a", None), ("promoted", "b", "a"), ("rolled_back", "a", "b")):
        entry = read(line(action, model, previous, evidence="e", data="d", refused=["c: max_params: too many"]))
        append(tmp_path, entry)
    return tmp_path


def actions(root: Path) -> list[str]:
    return [entry.action for entry in read_history(root)]


def test_what_is_appended_is_read_again(written: Path) -> None:
    assert actions(written) == ["promoted", "promoted", "rolled_back"]
    assert [model.model for model in champions(read_history(written))] == ["a"]
    assert read_history(written)[1].previous == RELEASE


def test_a_line_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / HERE.history).write_text(json.dumps(line("kept", "a")) + "\n")

    assert actions(tmp_path) == ["kept"]


DAMAGES: dict[str, tuple[Any, str]] = {
    "cut off, with the line break": (b'{"act', "line 2 is not JSON; mend or remove that line"),
    "not UTF-8": (b'{"time": "\xff"}', "line 2: byte 10 is not UTF-8; mend or remove that line"),
    "a list": (b"[1]", "line 2: .*object.*; mend or remove that line"),
    "deeply nested": (b"[" * 100_000, "line 2 is not JSON"),
    "a key less": ({"action": "kept", "champion": None}, "line 2: time: Field required"),
    "no champion": (line("promoted", "a") | {"champion": None}, "line 2: .*promoted needs a champion"),
    "a champion without a name": (line("kept", "a") | {"champion": {"version": "1"}}, "line 2: champion: model: "),
    "nothing rolled back": (line("rolled_back", "a"), "line 2: .*rolled_back needs previous"),
    "a figure that is text": (line("kept", "a", evidence=1, data="d"), "line 2: evidence: .*string"),
    "another action": (line("crowned", "a"), "line 2: action: .*'promoted'"),
    "evidence without data": (line("kept", "a", evidence="1"), "line 2: .*evidence needs data"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_line_is_named_and_what_to_do(tmp_path: Path, damage: Any, message: str) -> None:
    append(tmp_path, Line.now("refused", None))
    before = (tmp_path / HERE.history).read_bytes()
    text = damage if isinstance(damage, bytes) else json.dumps(damage).encode()
    (tmp_path / HERE.history).write_bytes(before + text + b"\n" + before)

    with pytest.raises(UserError, match=f"history.jsonl: {message}"):
        read_history(tmp_path)


def test_a_byte_that_has_changed_is_named_or_changes_nothing(written: Path) -> None:
    """A bit is flipped in every byte: another figure must never be read for the one that was written."""
    whole = (written / HERE.history).read_bytes()
    before, shuffled, seen = read_history(written), random.Random(0), []
    for place in range(len(whole)):
        bit = 1 << shuffled.randrange(8)
        (written / HERE.history).write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            seen.append(read_history(written))
        except UserError as error:
            seen.append(str(error))

    named = [said for said in seen if isinstance(said, str)]
    assert all("history.jsonl: line " in said for said in named)
    assert len(named) > 0.9 * len(whole)
    for lines in seen:
        if not isinstance(lines, str):  # only the key of the checksum may have changed
            assert [entry.model_dump(exclude={*entry.model_extra}) for entry in lines] == [
                entry.model_dump(exclude={CHECKSUM}) for entry in before
            ]


def test_a_line_cut_off_by_a_kill_is_replaced_and_no_whole_line_is_lost(written: Path) -> None:
    whole = (written / HERE.history).read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in (start, start + 1, start + 20, len(whole) - 2):
        (written / HERE.history).write_bytes(whole[:cut])
        assert actions(written) == ["promoted", "promoted"], cut
        append(written, Line.now("refused", None))
        assert actions(written) == ["promoted", "promoted", "refused"], cut
        assert (written / HERE.history).read_bytes().startswith(whole[:start])


def test_a_line_without_its_line_break_is_a_line(written: Path) -> None:
    whole = (written / HERE.history).read_bytes()
    (written / HERE.history).write_bytes(whole[:-1])

    assert actions(written) == ["promoted", "promoted", "rolled_back"]
    append(written, Line.now("refused", None))
    assert (written / HERE.history).read_bytes().startswith(whole)
    assert actions(written)[-1] == "refused"


def test_a_folder_instead_of_the_history_is_named(tmp_path: Path) -> None:
    (tmp_path / HERE.history).mkdir(parents=True)

    with pytest.raises(UserError, match=r"history.jsonl: cannot be read \(Is a directory\)"):
        read_history(tmp_path)


def test_a_full_disk_is_one_line_and_no_line_is_lost(small_disk: Callable[[int], Path]) -> None:
    root = small_disk(16)
    append(root, Line.now("refused", None))
    (root / "large").write_bytes(b"0" * (shutil.disk_usage(root).free))
    refused = ["a: max_params: too many"] * 1000

    with pytest.raises(UserError, match=r"registry: history.jsonl cannot be written: No space left on device; make"):
        append(root, Line.now("refused", None, refused=refused))
    assert actions(root) == ["refused"]

    (root / "large").unlink()
    append(root, Line.now("kept", RELEASE))
    assert actions(root) == ["refused", "kept"]
