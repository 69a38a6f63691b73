"""The simulations of `benchmarks.coverage`, against scikit-learn and counting."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, matthews_corrcoef, roc_auc_score

from benchmarks import coverage
from benchmarks.coverage import (
    CLASS_FIGURES,
    FIGURES,
    LIKE,
    MORE,
    OWN,
    Population,
    class_rows,
    draw_classes,
    hit_rows,
    hits_of,
    label_rows,
    more_rows,
    probability,
    scores_of,
    true_losses,
    true_precision,
)
from medistill.metrics.intervals import CONFIDENCE


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def population() -> Population:
    """Six images of patients 5, 7, 5, 9, 5 and 8; patient 5 has the first label on every image."""
    owners = pd.Series([5, 7, 5, 9, 5, 8])
    targets = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0], [0, 0]], float)
    return Population.of("made", targets, owners, 40)


def test_a_drawn_patient_comes_with_all_her_images(population, generator):
    targets, groups = population.draw(generator)
    assert len(np.unique(groups)) == 40
    for patient in range(40):
        own = targets[groups == patient]
        assert own.tolist() in ([[1, 0], [1, 1], [1, 0]], [[0, 0]], [[0, 1]])
    assert population.name == "made, 40 patients"


def test_a_label_is_in_the_bin_of_the_positives_it_has_on_average(population):
    # 40 draws of 4 patients: ten times the table's 3 and 2 positives
    assert population.bins() == ["30–99", "15–29"]


def test_the_truth_is_that_of_much_data(generator):
    targets = (generator.random((400_000, 1)) < 0.1).astype(float)
    groups = np.arange(400_000)
    first, second = scores_of(targets, groups, np.array([[1.0], [0.5]]), generator)
    assert average_precision_score(targets[:, 0], first[:, 0]) == pytest.approx(true_precision(0.1, 1.0), abs=0.005)
    assert roc_auc_score(targets[:, 0], second[:, 0]) == pytest.approx(0.6382, abs=0.005)  # Φ(0.5 / √2)
    assert np.corrcoef((first - targets)[:, 0], (second - 0.5 * targets)[:, 0])[0, 1] == pytest.approx(0.8, abs=0.01)


def test_a_patients_scores_and_hits_are_alike(generator):
    groups = np.repeat(np.arange(40_000), 2)
    scores, _ = scores_of(np.zeros((80_000, 1)), groups, np.zeros((2, 1)), generator)
    assert np.corrcoef(scores[::2, 0], scores[1::2, 0])[0, 1] == pytest.approx(OWN, abs=0.02)
    hits, chance, owners = hits_of(60_000, 0.3, generator)
    assert hits.mean() == pytest.approx(0.3, abs=0.01)
    first = np.flatnonzero(owners[1:] == owners[:-1])
    assert np.corrcoef(hits[first], hits[first + 1])[0, 1] == pytest.approx(LIKE, abs=0.03)
    by_chance, chance, _ = hits_of(60_000, None, generator)
    assert (by_chance - chance).mean() == pytest.approx(0, abs=0.005)


def test_every_figure_is_looked_at(generator, monkeypatch):
    monkeypatch.setattr("benchmarks.coverage.RESAMPLES", 50)
    targets = (generator.random((900, 6)) < np.linspace(0.02, 0.5, 6)).astype(float)
    many = Population.of("made", targets, pd.Series(np.arange(900) // 2), 120)
    rows = {row.partition(" (")[0] for row, *_ in label_rows(many, run=0, seed=0)}
    assert rows == set(FIGURES)
    assert len(list(hit_rows(12, run=0, seed=0))) == 4
    rows = {row.partition(" (")[0] for row, *_ in more_rows(many, run=0, seed=0)}
    assert rows == set(MORE)


def test_true_losses_and_figures_of_classes_are_those_of_much_data(generator, monkeypatch):
    targets = (generator.random((400_000, 1)) < 0.1).astype(float)
    scores, _ = scores_of(targets, np.arange(400_000), np.full((2, 1), 1.2), generator)
    given = probability(scores[:, 0], 0.1, 1.2)
    brier, loss = true_losses(0.1, 1.2)
    assert brier == pytest.approx(brier_score_loss(targets[:, 0], given), abs=0.002)
    assert loss == pytest.approx(log_loss(targets[:, 0], given), abs=0.004)
    assert given.mean() == pytest.approx(0.1, abs=0.002)
    monkeypatch.setattr("benchmarks.coverage.TRUTH_PATIENTS", 20_000)
    monkeypatch.setattr("benchmarks.coverage.RESAMPLES", 50)
    coverage.true_figures.cache_clear()
    assert {row for row, *_ in class_rows(60, run=0, seed=0)} == set(CLASS_FIGURES)
    targets, scores, _ = draw_classes(50_000, generator)
    mcc = matthews_corrcoef(targets.argmax(axis=1), scores.argmax(axis=1))
    assert coverage.true_figures()[CLASS_FIGURES["MCC"]] == pytest.approx(mcc, abs=0.01)
    coverage.true_figures.cache_clear()


def test_the_published_intervals_of_labels_hold_the_truth(root):
    """For each kind of label in docs/intervals.md the coverage is at most two standard errors below 93 %."""
    text = (root / "docs" / "intervals.md").read_text(encoding="utf-8")
    text = text.partition("<!-- coverage of labels: begin -->")[2].partition("<!-- coverage of labels: end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "label" in line]
    assert {row[0].partition(" (")[0] for row in rows} == {name for name in FIGURES if "label" in name}
    cells = [cell.split() for row in rows for cell in row[2:-1] if cell]  # widths come last
    assert len(cells) > 20
    for held, _, error, *_ in cells:
        assert float(held) + 2 * float(error) >= 93
    assert CONFIDENCE == 0.95
