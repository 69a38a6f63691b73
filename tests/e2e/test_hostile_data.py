"""A data set with names that a terminal, a page or a spreadsheet would run goes through the whole graph."""

import csv
import json
import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

LABELS = [
    "Mass [x](javascript:alert(1))",
    "=SUM(1+1)*2",
    "<script>alert(1)</script>",
    "胸部 50 % $v__0 {0} | `#` &#x202e; <meta http-equiv='refresh'>",
]
CONTROL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eesrever\u2066\u200f"
PATIENT = f"p{CONTROL}\n"
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def obeyed(text: str) -> list[str]:
    """Control characters in a text, by their Unicode properties; line breaks and tabs are allowed."""
    return [
        sign
        for sign in text
        if (unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") and sign not in "\n\t")
        or unicodedata.bidirectional(sign) in DIRECTIONS
        or sign in "\u200e\u200f\u061c"
    ]


def write_hostile(root: Path, count: int = 320) -> None:
    """A table and 320 images of 32 px, two per patient, with four labels that are bright quarters."""
    rng = np.random.default_rng(0)
    folder = root / f"films{CONTROL}"
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        truth = rng.random(4) < 0.4
        pixels = rng.integers(0, 90, (32, 32), dtype=np.uint8)
        for label, (top, left) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
            pixels[top : top + 16, left : left + 16] += np.uint8(120 * truth[label])
        name = f"={number:03d}{CONTROL}\n<b>.png"
        if number == 1:
            (folder / name).write_text("no image")
        else:
            Image.fromarray(pixels if number != 7 else np.zeros_like(pixels)).save(folder / name, "PNG")
        found = [label for label, there in zip(LABELS, truth, strict=True) if there] or ["none"]
        view = f"PA{CONTROL}" if number % 3 else "PA"
        rows.append((name, f"{PATIENT}{number // 2}", "~".join(found), view, f"M{CONTROL}", 30 + number, f"s{CONTROL}"))
    rows.append((f"+gone{CONTROL}.png", f"{PATIENT}gone", "none", "", "", "", ""))
    (folder / f"-unlisted{CONTROL}.png").write_bytes((folder / rows[0][0]).read_bytes())
    columns = ["image", "patient", "findings", "view", "sex", "age", "source"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "table.csv", index=False, sep="\t")


OPTIONS = {
    **{"table": "table.csv", "images": f"films{CONTROL}", "path": "image", "patient": "patient", "age": "age"},
    **{"labels": "findings", "separator": "~", "negative": ["none"], "view": "view", "sex": "sex", "source": "source"},
}


@pytest.fixture
def hostile(fresh):
    """A clone with hostile data, so small that its graph takes a minute."""
    root = fresh.folder / "data/raw" / f"set{CONTROL}"
    write_hostile(root)
    params = fresh.params
    params["data"] |= {"format": "csv", "root": str(root), "options": OPTIONS, "split": "patient"}
    params["data"] |= {"val_fraction": 0.3, "test_fraction": 0.3, "max_quarantined": 0.05, "name": ""}
    params["run"] |= {"teachers": ["densenet"], "students": ["eeea_net_c2"]}
    params["recipes"]["kd"]["teachers"] = ["densenet"]
    params["training"]["epochs"] = 1
    fresh.write_params(params)
    return fresh


@pytest.mark.slow
def test_nothing_that_is_printed_written_or_tracked_is_obeyed(hostile):
    folder, root = hostile.folder, hostile.params["data"]["root"]
    options = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in OPTIONS.items()]
    check = ["medistill", "check", root, "--format", "csv", *(part for option in options for part in ("--set", option))]
    outputs = [
        hostile.run(*check, "--cache", "cache", expect=None),
        hostile.run(*check, "--cache", "cache", "--json", expect=None),
        hostile.run("dvc", "repro"),
        hostile.run("python", "-m", "pipeline", "track"),
        hostile.run("python", "-m", "pipeline", "promote", "--json", expect=None),
        hostile.run("python", "-m", "pipeline", "history"),
    ]
    images = [str(path) for path in sorted(Path(root).rglob("*.png"))[:3]]
    predict = ["medistill", "predict", *images, "--model", "exports/eeea_net_c2-kd-0"]
    outputs += [hostile.run(*predict, expect=2), hostile.run(*predict, "--json", expect=2)]
    for done in outputs:
        assert "Traceback" not in done.stderr
        assert obeyed(done.stdout + done.stderr) == [], done.args
    assert len(json.loads(outputs[-1].stdout)) == 3

    written = [
        path
        for place in ("data/processed", "models", "reports", "exports", "registry", "data/knowledge")
        for path in (folder / place).rglob("*")
        if path.suffix in (".json", ".jsonl", ".csv", ".html", ".md", ".svg")
    ]
    assert {path.suffix for path in written} == {".json", ".jsonl", ".csv", ".html", ".md"}
    for path in written:
        assert obeyed(path.read_text(encoding="utf-8")) == [], path
    shown = r"\x1b[2J\x1b]0;owned\x07\x9b31m\u202eesrever\u2066\u200f"
    data_docs = "".join(path.read_text() for path in (folder / "reports/validation/data_docs").rglob("*.html"))
    assert shown in (folder / "reports/explain/index.html").read_text()
    assert shown in (folder / "reports/index.html").read_text()
    assert r"PA\x1b[2J\x1b]0;OWNED\x07" in data_docs  # views are read in capitals

    for path in written:
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            assert "<script>alert" not in text, path
            assert "<b>.png" not in text, path
            assert "<meta http-equiv='refresh'" not in text, path
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) and not _is_number(cell)], path
    quarantined = pd.read_csv(folder / "data/processed/quarantine.csv")["path"].tolist()
    assert len(quarantined) == 3
    assert f"./+gone{shown}.png" in quarantined
    assert f"films{shown}/-unlisted{shown}.png" in quarantined

    card = (folder / "exports/eeea_net_c2-kd-0/MODEL_CARD.md").read_text(encoding="utf-8")
    assert r"Mass \[x\](javascript:alert(1))" in card
    assert r"\<script\>alert(1)\</script\>" in card
    assert r"\&\#x202e;" in card
    bundle = json.loads((folder / "exports/eeea_net_c2-kd-0/bundle.json").read_text())
    assert sorted(bundle["labels"]) == sorted(LABELS)

    with sqlite3.connect(folder / "mlflow.db") as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        cells = [
            str(cell)
            for table in tables
            for row in store.execute(f'SELECT * FROM "{table}"')
            for cell in row
            if isinstance(cell, str)
        ]
        names = {name for (name,) in store.execute("SELECT DISTINCT key FROM metrics")}
    assert any(shown in cell for cell in cells)  # the data set's name
    assert obeyed("".join(cells)) == []
    assert {"test_macro_auroc", "parity_max_abs_logit_difference"} <= names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ingest"])
def test_a_label_that_is_no_name_stops_the_graph_with_one_line(hostile, stage):
    root = Path(hostile.params["data"]["root"])
    table = (root / "table.csv").read_text()
    (root / "table.csv").write_text(table.replace("<script>", "\x1b[31mscript"))
    done = hostile.run("python", "-m", f"pipeline.stages.{stage}", expect=2)
    assert r"the label '\x1b[31mscriptalert(1)</script>' is blank or has a control character" in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert obeyed(done.stderr) == []
