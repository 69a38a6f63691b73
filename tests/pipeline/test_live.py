"""The page of the trainings that are running."""

import os
import time
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from medistill.checksums import read_record, write_record
from medistill.report import live
from medistill.report.live import POINTS, LiveCurves, page


def report(step, steps=10_000, val=()):
    facts = {"epoch": 1 + step // 100, "step": step, "steps": steps, "images": 16, "learning_rate": 1e-3}
    return facts | {"loss": 1000.0 / step, "val_macro_auroc": list(val)}


def fail(folder, steps, error):
    with LiveCurves("net", folder) as curves:
        for step in steps:
            curves.step(report(step))
        raise error


def state(folder, name):
    return read_record(folder / f"{name}.json")


def test_a_long_curve_keeps_its_mean_and_its_end(tmp_path):
    with LiveCurves("net", tmp_path) as curves:
        for step in range(1, 5 * POINTS + 1):
            curves.step(report(step))
    said = state(tmp_path, "net")
    points, width = said["loss"], said["width"]
    assert len(points) < POINTS
    assert points[-1][0] > 5 * POINTS - width
    steps = range(1, points[-1][0] + 1)
    assert sum(loss for _, loss in points) / len(points) == pytest.approx(sum(1000 / s for s in steps) / len(steps))
    assert said["status"] == "done"


def test_the_page_shows_each_training_and_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "EVERY", 0.0)
    with LiveCurves("first", tmp_path) as curves:
        for step in (1, 2, 3):
            curves.step(report(step, val=[[1, 0.6], [2, 0.7]]))
        text = (tmp_path / "index.html").read_text()
        assert 'http-equiv="refresh"' in text
        assert "step 3 of 10000" in text
        curves.end(pd.DataFrame({"epoch": [1, 2, 3], "val_macro_auroc": [0.6, 0.7, 0.8]}))
    assert state(tmp_path, "first")["val_macro_auroc"][-1] == [3, 0.8]
    with pytest.raises(ValueError, match="<bad>"):
        fail(tmp_path, [1], ValueError("<bad> luck\x1b[2J\n\u202e"))
    text = (tmp_path / "index.html").read_text()
    body = text[text.index("<main>") : text.index("</main>") + len("</main>")]
    tree = ElementTree.fromstring(body)  # well-formed, whatever an error says
    assert [heading.text for heading in tree.iter("h2")] == ["net", "first"]
    notices = ["".join(notice.itertext()) for notice in tree.iter("p")]
    assert notices[0].startswith(r"stopped: <bad> luck\x1b[2J\n\u202e, epoch")
    assert notices[1].startswith("done")
    assert len(list(tree.iter("figure"))) == 2
    assert 'http-equiv="refresh"' not in text  # no training is running any more


def test_an_epoch_that_was_not_validated_has_no_point(tmp_path):
    with LiveCurves("net", tmp_path) as curves:
        curves.step(report(1))
        curves.end(pd.DataFrame({"epoch": [1, 2, 3], "val_macro_auroc": [None, None, 0.8]}))
    assert state(tmp_path, "net")["val_macro_auroc"] == [[3, 0.8]]


def test_a_resumed_training_continues_its_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path, range(1, 31), KeyboardInterrupt())
    assert state(tmp_path, "net")["status"] == "stopped: KeyboardInterrupt"
    with LiveCurves("net", tmp_path) as curves:
        curves.step(report(21))
    assert [step for step, _ in state(tmp_path, "net")["loss"]] == list(range(1, 22))
    with LiveCurves("net", tmp_path) as curves:  # another training of the same name, from its first step
        curves.step(report(1))
    assert [step for step, _ in state(tmp_path, "net")["loss"]] == [1]


def test_a_training_that_was_killed_is_shown_without_progress(tmp_path):
    with LiveCurves("net", tmp_path) as curves:
        curves.step(report(1))
    file = tmp_path / "net.json"
    write_record(file, state(tmp_path, "net") | {"status": "at work", "time": time.time() - 300})
    (tmp_path / "other.json").write_text('{"name": "ha')
    (tmp_path / "changed.json").write_text(file.read_text().replace("1000.0", "2000.0"))
    assert "no progress for 5 min" in page(tmp_path)
    assert 'http-equiv="refresh"' not in page(tmp_path)


def test_a_training_goes_on_where_its_page_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "EVERY", 0.0)
    (tmp_path / "reports").write_text("in the way")
    with LiveCurves("net", tmp_path / "reports") as curves:
        for step in (1, 2, 3):
            curves.step(report(step))
    assert capsys.readouterr().err == (
        f"note: {tmp_path}/reports: net.json cannot be written: {tmp_path}/reports is in the way; move it away; the"
        " training continues\n"
    )


def test_a_training_that_failed_before_its_first_step_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no"):
        fail(tmp_path, [], ValueError("no"))
    assert not list(tmp_path.iterdir())


def test_the_page_has_the_latest_trainings_alone(tmp_path):
    for number in range(live.SHOWN + 3):
        with LiveCurves(f"net{number}", tmp_path) as curves:
            curves.step(report(1))
        os.utime(tmp_path / f"net{number}.json", (number, number))
    text = page(tmp_path)
    assert [f"<h2>net{number}</h2>" in text for number in range(live.SHOWN + 3)] == [False] * 3 + [True] * live.SHOWN
