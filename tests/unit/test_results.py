"""The statistics and sides of `make results`, against brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import attempts, results
from benchmarks.outcomes import Outcome, read_outcomes, write_outcomes
from benchmarks.results import ORDER, PLANS, RECIPES, Job, foldwise_auroc, phases, to_train
from benchmarks.study import FOLDS, Trained, fold_sides, rarest_label
from medistill.evaluation import bootstrap


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_auroc_counts_pairs_within_a_fold_only(generator: np.random.Generator) -> None:
    groups = np.repeat(np.arange(30), 2)
    folds = groups % 3
    targets = (generator.random((60, 2)) < 0.4).astype(float)
    targets[generator.random((60, 2)) < 0.1] = np.nan
    targets[folds == 2, 1] = 0  # no positive in a fold: it has no pairs
    scores = np.round(generator.normal(size=(60, 2)), 1) + 100 * folds[:, None]  # ties; a level of its own in each fold
    counts = bootstrap.draw(30, 20, seed=1)

    values = foldwise_auroc(targets, scores, groups, folds, counts)

    assert values.shape == (21, 2)
    for resample in range(21):
        images = np.repeat(np.arange(60), counts[groups, resample])
        for label in range(2):
            won = pairs = 0.0
            for fold in range(3):
                here = images[(folds[images] == fold) & ~np.isnan(targets[images, label])]
                positive = (targets[here, label] == 1).sum()
                if 0 < positive < len(here):
                    weight = positive * (len(here) - positive)
                    won += weight * roc_auc_score(targets[here, label], scores[here, label])
                    pairs += weight
            assert values[resample, label] == pytest.approx(won / pairs, abs=1e-12)


def test_one_fold_is_the_usual_auroc_and_none_is_undefined(generator: np.random.Generator) -> None:
    targets = np.stack([np.arange(40) % 2, np.zeros(40)], axis=1)
    scores = generator.normal(size=(40, 2))

    values = foldwise_auroc(targets, scores, np.arange(40), np.zeros(40), bootstrap.draw(40, 5, seed=0))

    assert values[0, 0] == pytest.approx(roc_auc_score(targets[:, 0], scores[:, 0]))
    assert np.isnan(values[:, 1]).all()


def test_every_patient_is_tested_once_and_never_on_two_sides(generator: np.random.Generator) -> None:
    groups = generator.integers(60, size=200)
    targets = (generator.random((200, 3)) < [0.5, 0.2, 0.1]).astype(float)
    targets[0] = np.nan

    sides = [fold_sides(targets, groups, fold) for fold in range(FOLDS)]

    assert np.sum([side == "test" for side in sides], axis=0).tolist() == [1] * 200
    for side in sides:
        assert set(side) == {"train", "val", "test"}
        owners = [set(groups[side == name]) for name in ("train", "val", "test")]
        assert len(set.union(*owners)) == sum(map(len, owners))


def test_an_image_counts_as_its_rarest_label() -> None:
    targets = np.array([[1, 1], [1, 0], [1, np.nan], [0, 0]], float)
    assert rarest_label(targets).tolist() == [1, 0, 0, 2]


def test_teachers_are_trained_before_whom_they_teach() -> None:
    done = set()
    for phase in phases(ORDER):
        for job in phase:
            for teacher in PLANS[job.data].recipes[job.recipe].teachers if job.recipe else ():
                assert (job.data, job.fold, teacher) in done
        done |= {(job.data, job.fold, job.network) for job in phase if job.recipe is None and job.seed == 0}
    jobs = [job for phase in phases(ORDER) for job in phase]
    recipes = {data: sum(len(names) for (of, _), names in RECIPES.items() if of == data) for data in PLANS}
    wanted = sum(plan.folds * 3 * (2 + recipes[data]) for data, plan in PLANS.items())
    assert len(jobs) == len(set(jobs)) == wanted


def outcome_with(settings: str, logits: np.ndarray) -> Outcome:
    return Outcome(settings, "code", "random", params=3, macs=5, seconds=1.5, val=0.75, logits=logits)


def test_outcomes_are_read_as_they_were_written_in_whatever_order(
    generator: np.random.Generator, tmp_path: Path
) -> None:
    whole, part = (generator.normal(size=(count, 3)).astype(np.float32) for count in (7, 4))
    rows = [(1, 0, outcome_with("second", part)), (0, 1, outcome_with("first", whole))]

    write_outcomes(tmp_path / "new" / "a.parquet", rows)
    write_outcomes(tmp_path / "new" / "b.parquet", rows[::-1])

    found = read_outcomes(tmp_path / "new" / "a.parquet")
    assert list(found) == ["first", "second"]
    for name, logits in {"first": whole, "second": part}.items():
        assert np.array_equal(found[name].logits, logits)
        assert replace(found[name], logits=None) == replace(outcome_with(name, logits), logits=None)
    assert (tmp_path / "new" / "a.parquet").read_bytes() == (tmp_path / "new" / "b.parquet").read_bytes()
    assert read_outcomes(tmp_path / "none.parquet") == {}


def test_what_is_kept_is_not_trained_but_a_teacher_that_is_gone_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order = [("phantom", [results.LITE0], ("baseline", "system_b", "by_densenet"))]
    missing = Job("phantom", 0, results.LITE0, "system_b", 1)

    def locate(job: Job, xrays: Path | None) -> Trained:
        recipe = PLANS[job.data].recipes[job.recipe] if job.recipe else None
        teachers = [locate(Job(job.data, 0, name, None, 0), xrays) for name in recipe.teachers] if recipe else []
        name = f"{job.network}-{job.recipe}-{job.seed}"
        return Trained(tmp_path / name, name, name, tuple(teachers))

    monkeypatch.setattr(results, "locate", locate)
    monkeypatch.setattr(results, "outcome_of", lambda job, *_: None if job == missing else "kept")

    assert to_train(order, None) == [[Job("phantom", 0, results.LITE2, None, 0)], [missing]]
    (tmp_path / f"{results.LITE2}-None-0").mkdir()
    assert to_train(order, None) == [[], [missing]]


def test_the_published_attempts_are_those_that_are_kept(root):
    text = (root / "docs" / "results.md").read_text()
    published = text.partition("<!-- attempts: begin -->\n")[2].partition("\n<!-- attempts: end -->")[0]
    assert published == attempts.table(attempts.read_rows())
