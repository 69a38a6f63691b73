"""A new figure needs only a row of `FIGURES`; files and pages show it."""

import numpy as np
import pandas as pd
import pytest

from medistill.evaluation import figures
from medistill.evaluation.answers import Split
from medistill.evaluation.comparison import Measured, compare
from medistill.evaluation.figures import FIGURES, Figure
from medistill.evaluation.run import References, describe_all, numbers
from medistill.evaluation.settings import Evaluate
from medistill.evaluation.subgroups import ATTRIBUTES
from medistill.report.figures import columns
from medistill.task import Task


def share(answers):
    """Share of each label's probabilities above 0.3, with two made-up resamples."""
    return np.stack([(answers.probabilities > limit).mean(axis=0) for limit in (0.3, 0.2, 0.4)])


@pytest.fixture
def measured(monkeypatch) -> dict[str, dict[str, Measured]]:
    """Two models, measured with an additional figure."""
    monkeypatch.setattr(figures, "FIGURES", (*FIGURES, Figure("share", "share", share)))
    monkeypatch.setattr("medistill.evaluation.run.FIGURES", figures.FIGURES)
    random = np.random.default_rng(0)
    targets = (random.random((80, 2)) < 0.4).astype(float)
    split = Split.of(["a", "b"], targets, np.arange(80), 2, 0, name="val")
    models = {name: Measured.of(split, random.normal(size=(80, 2))) for name in ("small", "teacher")}
    return {"val": models, "test": models}


def test_a_new_figure_is_described_compared_and_counted(measured):
    small = measured["val"]["small"]
    above = share(small.answers)[0]
    roles, references = {"small": "distilled", "teacher": "teacher"}, References({"small": []}, ["teacher"])
    rows = pd.DataFrame(dict.fromkeys(ATTRIBUTES, [None] * 80)).astype({"age": float})
    found = describe_all(rows, measured, roles, references, Evaluate(resamples=100))
    assert found["small"].val.figure("macro_share").estimate == pytest.approx(above.mean(), abs=1e-12)
    per_label = found["small"].test.per_label
    assert [per_label[label].figure("share").estimate for label in "ab"] == above.tolist()
    rows = {row.metric: row.estimate for row in compare(small, measured["val"]["teacher"])}
    other = share(measured["val"]["teacher"].answers)[0]
    assert rows["macro_share"] == pytest.approx((above - other).mean(), abs=1e-12)
    summary = numbers(found, measured, references)
    assert summary["small"]["test"]["macro_share"] == pytest.approx(above.mean(), abs=1e-12)
    assert {"macro_share_lower", "macro_share_upper"} <= set(summary["small"]["test"])
    assert [column.title for column in columns(Task.MULTILABEL)][-1] == "Test share"


def test_names_are_unique_within_a_task():
    for task in Task:
        names = [figure.name for figure in figures.figures_of(task)]
        assert len(names) == len(set(names))
        assert names[0] == figures.LEAD
