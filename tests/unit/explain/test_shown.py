"""Findings of every kind are shown, drawn by a hash and not by success."""

import numpy as np
import pytest

from medistill.explain.selection import Finding
from medistill.explain.shown import draw, student_of
from medistill.layout import ModelFolder
from medistill.records.models import TrainingMetrics

LABELS = ["Mass", "Nodule"]
FINDINGS = [Finding(f"i{k:02d}", LABELS[k % 2], f"p{k}", "test") for k in range(40)]


def test_each_kind_has_its_turn_even_if_it_is_rare():
    called, hits = np.ones(40), np.ones(40)
    called[[4, 5, 6]] = 0  # three are not called; of these one is missed
    hits[[6, 7]] = 0
    kinds = draw(FINDINGS, LABELS, called, hits, 9)
    assert [(kind.called, kind.hit, kind.findings) for kind in kinds] == [
        (True, True, 36),
        (True, False, 1),
        (False, True, 2),
        (False, False, 1),
    ]
    assert [len(kind.shown) for kind in kinds] == [5, 1, 2, 1]
    assert [kinds[k].shown for k in (1, 2, 3)] == [[7], [4, 5], [6]]
    common = {FINDINGS[at].label for at in kinds[0].shown}
    assert common == set(LABELS)


def test_fewer_places_than_kinds_and_more_places_than_findings():
    called, hits = np.arange(40) % 2.0, np.arange(40) // 2 % 2.0
    assert [len(kind.shown) for kind in draw(FINDINGS, LABELS, called, hits, 3)] == [1, 1, 1, 0]
    assert sum(len(kind.shown) for kind in draw(FINDINGS, LABELS, called, hits, 99)) == 40
    assert draw(FINDINGS, LABELS, called, hits, 0)[0].shown == []


def test_no_image_is_shown_twice():
    twice = [Finding("same", label, "p", "test") for label in LABELS]
    kinds = draw(twice, LABELS, np.array([1.0, 0.0]), np.array([1.0, 1.0]), 5)
    assert [(kind.findings, len(kind.shown)) for kind in kinds] == [(1, 1), (1, 0)]


def test_what_is_not_known_is_a_kind_of_its_own():
    kinds = draw(FINDINGS, LABELS, np.where(np.arange(40) < 10, np.nan, 1.0), np.full(40, np.nan), 4)
    assert [(kind.called, kind.hit, kind.findings, len(kind.shown)) for kind in kinds] == [
        (True, None, 30, 2),
        (None, None, 10, 2),
    ]


def test_more_findings_do_not_change_which_come_first():
    same = np.ones(40)
    few, more = (set(draw(FINDINGS, LABELS, same, same, count)[0].shown) for count in (4, 6))
    assert few < more


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"t": 0.9, "a-base-0": 0.95, "a-kd-0": 0.7, "b-kd-0": 0.8}, "b-kd-0"),
        ({"t": 0.9, "a-base-0": 0.6}, "a-base-0"),
        ({"t": None}, "t"),
    ],
)
def test_the_student_is_the_distilled_one_that_is_best_on_validation(tmp_path, figures, expected):
    folders = {name: ModelFolder(tmp_path / name) for name in figures}
    for name, figure in figures.items():
        folders[name].folder.mkdir()
        TrainingMetrics(params=1, macs=1, val_macro_auroc=figure).write(folders[name].metrics)
    roles = {name: "teacher" if name == "t" else "baseline" if "base" in name else "distilled" for name in figures}
    assert student_of(roles, folders) == expected
