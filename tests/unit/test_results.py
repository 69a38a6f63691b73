"""The statistics and splits of `make results`, against brute force."""

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks import hours, plans, results, tables
from benchmarks.controls import derangement, shuffle
from benchmarks.outcomes import Outcome, read_outcomes, write_outcomes
from benchmarks.plans import OLDER, ORDER, PLANS, STORED, Job, phases, rows_of
from benchmarks.results import to_train
from benchmarks.sample import Sample, halves, summary
from benchmarks.scores import Results, Scores, Truth, adjusted, lead, with_seeds
from benchmarks.study import DENSENET, EEEA, FOLDS, LITE0, LITE2, LITE2_224, Setting, Trained, fold_splits, rarest_label
from medistill.evaluation.answers import Split
from medistill.metrics.bootstrap import draw
from medistill.metrics.intervals import p_value, summarise
from medistill.metrics.strata import measure_within
from medistill.training.batches import Batch


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_auroc_counts_pairs_within_a_fold_only(generator: np.random.Generator) -> None:
    groups = np.repeat(np.arange(30), 2)
    folds = groups % 3
    targets = (generator.random((60, 2)) < 0.4).astype(float)
    targets[generator.random((60, 2)) < 0.1] = np.nan
    targets[folds == 2, 1] = 0  # a fold without positives has no pairs
    scores = np.round(generator.normal(size=(60, 2)), 1) + 100 * folds[:, None]  # ties; each fold has its own level
    counts = draw(30, 20, seed=1)

    values = measure_within(targets, scores, groups, folds, counts)

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

    values = measure_within(targets, scores, np.arange(40), np.zeros(40, int), draw(40, 5, seed=0))

    assert values[0, 0] == pytest.approx(roc_auc_score(targets[:, 0], scores[:, 0]))
    assert np.isnan(values[:, 1]).all()


def test_every_patient_is_tested_once_and_never_in_two_splits(generator: np.random.Generator) -> None:
    groups = generator.integers(60, size=200)
    targets = (generator.random((200, 3)) < [0.5, 0.2, 0.1]).astype(float)
    targets[0] = np.nan

    splits = [fold_splits(targets, groups, fold) for fold in range(FOLDS)]

    assert np.sum([split == "test" for split in splits], axis=0).tolist() == [1] * 200
    for split in splits:
        assert set(split) == {"train", "val", "test"}
        owners = [set(groups[split == name]) for name in ("train", "val", "test")]
        assert len(set.union(*owners)) == sum(map(len, owners))


def test_an_image_counts_as_its_rarest_label() -> None:
    targets = np.array([[1, 1], [1, 0], [1, np.nan], [0, 0]], float)
    assert rarest_label(targets).tolist() == [1, 0, 0, 2]


def test_teachers_are_trained_before_their_students() -> None:
    done: set[Job] = set()
    for phase in phases(ORDER):
        for job in phase:
            assert set(job.teachers) <= done
            named = set(job.row.recipe.teachers) - set(STORED) if job.recipe else ()
            assert len(job.teachers) == len(named)
        done |= set(phase)
    jobs = [job for phase in phases(ORDER) for job in phase]
    students = {
        Job(data, fold, student, row, seed)
        for data, plan in PLANS.items()
        for student, rows in plan.students.items()
        for fold, row, seed in itertools.product(range(plan.folds), rows, plan.seeds)
    }
    assert len(jobs) == len(set(jobs))
    assert {job for job in jobs if job.recipe} == students
    teachers = [job for job in jobs if job.recipe is None]
    for data in OLDER:  # three seeds of both, whether they teach or not
        assert sum(job.data == data for job in teachers) == PLANS[data].folds * 3 * 2
    taught = {teacher for job in students for teacher in job.teachers}
    assert {job for job in teachers if job.data not in OLDER} == {job for job in taught if job.recipe is None} - {
        job for job in taught if job.data in OLDER
    }


def test_the_seed_of_a_student_is_that_of_its_teachers_but_of_the_costly_one() -> None:
    of = {
        name: Job("nih", 2, EEEA, name, 3).teachers
        for name in ("several", "by_224", "ensemble", "self", "shuffled", "baseline")
    }
    assert of["several"] == [Job("nih", 2, LITE2, None, 3), Job("nih", 2, DENSENET, None, 3)]
    assert of["by_224"] == [Job("nih", 2, LITE2_224, None, 0)]
    assert of["ensemble"] == [Job("nih", 2, LITE2, None, seed) for seed in (3, 4, 0)]
    assert of["self"] == [Job("nih", 2, EEEA, "baseline", 3)]
    assert of["shuffled"] == [Job("nih", 2, LITE2, None, 3)]
    assert of["baseline"] == []


@pytest.mark.parametrize("exclusive", [False, True])
def test_each_row_differs_in_one_thing_from_another(exclusive: bool) -> None:
    """So that a difference between two rows has one cause."""
    rows = rows_of(EEEA, "selected", exclusive=exclusive)
    things = {
        name: (
            (row.recipe.teachers, row.recipe.combine, row.control),
            (row.recipe.terms, row.recipe.stages),
            row.recipe.calibrate,
            row.recipe.views,
            row.start,
            row.rate,
            row.training,
        )
        for name, row in rows.items()
    }
    for name, row in rows.items():
        others = [key for key in rows if key != name and bool(rows[key].recipe.teachers) == bool(row.recipe.teachers)]
        unlike = [sum(own != its for own, its in zip(things[name], things[key], strict=True)) for key in others]
        assert min(unlike) == 1, name
    kinds = {name: row.kind for name, row in rows.items()}
    assert [name for name in kinds if kinds[name] == "control"] == ["shuffled", "self"]
    assert kinds["baseline"] == kinds["slower"] == kinds["random"] == "baseline"
    assert kinds["system_b"] == kinds["random_system_b"] == "taught"


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

    counted = generator.random((2, 3))
    newer = replace(outcome_with("newer", whole.astype(np.float16)), val_pairs=counted)
    write_outcomes(tmp_path / "c.parquet", [(0, 0, newer)])
    again = read_outcomes(tmp_path / "c.parquet")["newer"]
    assert again.logits.dtype == np.float16
    assert np.array_equal(again.logits, newer.logits)
    assert np.array_equal(again.val_pairs, counted)


def test_kept_models_are_not_trained_again_but_missing_teachers_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order = [("phantom", [LITE0], ("baseline", "system_b", "by_densenet"))]
    missing = Job("phantom", 0, LITE0, "system_b", 1)

    def locate(job: Job, xrays: Path | None) -> Trained:
        recipe = PLANS[job.data].recipes[job.recipe] if job.recipe else None
        teachers = [locate(Job(job.data, 0, name, None, 0), xrays) for name in recipe.teachers] if recipe else []
        name = f"{job.network}-{job.recipe}-{job.seed}"
        return Trained(tmp_path / name, name, name, tuple(teachers))

    monkeypatch.setattr(results, "locate", locate)
    monkeypatch.setattr(results, "outcome_of", lambda job, *_: None if job == missing else "kept")

    assert to_train(order, None) == [[Job("phantom", 0, LITE2, None, 0)], [missing]]
    (tmp_path / f"{LITE2}-None-0").mkdir()
    assert to_train(order, None) == [[missing]]


# Sentences on the figures


def made_results(generator: np.random.Generator) -> Results:
    """Made-up results: four labels on 240 images of 120 patients in two folds; positives of B, C and D are also of A.

    Lite0's recipe `system_b` is a little better than its baseline, and `system_a` is the baseline with other noise. In
    each fold each model's logits have a different level.
    """
    ill = np.arange(240) % 2 == 0
    targets = np.stack([ill, *(ill & (generator.random(240) < 0.4) for _ in range(3))], axis=1).astype(float)
    patients, folds = np.repeat(np.arange(120), 2), np.arange(240) // 120
    split = Split.of(["A", "B", "C", "D"], targets, patients, 200, 0)
    truth = Truth(split, folds, [[0, 1], [0, 2]])
    noise = generator.normal(size=(240, 4))

    def scores(gain: float, seeds: int = 3) -> Scores:
        logits = [
            targets * (0.5 + gain)
            + ill[:, None]
            + noise
            + 0.5 * generator.normal(size=noise.shape)
            + 9 * folds[:, None]
            for _ in range(seeds)
        ]
        macro = np.array([truth.auroc(one, range(4)) for one in logits])
        outcomes = [outcome_with(f"{gain}-{k}", one) for k, one in enumerate(logits)]
        return Scores(list(range(seeds)), macro, np.array(logits), 0.5, outcomes)

    recipes = {"baseline": scores(0), "system_a": scores(0), "system_b": scores(0.8)}
    others = {"baseline": scores(0), "system_b": scores(0.8)}
    return Results(PLANS["xrays"], truth, {LITE2: scores(1.5), DENSENET: scores(0)}, {LITE0: recipes, EEEA: others})


def brute_auroc(truth: Truth, logits: np.ndarray, labels: list[int], chosen: np.ndarray) -> float:
    """Mean AUROC over pairs of chosen images (N, L) of the same fold, by scikit-learn."""
    values = []
    for label in labels:
        won = pairs = 0.0
        for fold in (0, 1):
            here = chosen[:, label] & (truth.folds == fold)
            y = truth.split.targets[here, label]
            weight = y.sum() * (1 - y).sum()
            won, pairs = won + weight * roc_auc_score(y, logits[here, label]), pairs + weight
        values.append(won / pairs)
    return float(np.mean(values))


def test_pairs_within_the_common_label_and_between_are_those_by_hand(generator: np.random.Generator) -> None:
    made = made_results(generator)
    sample = Sample.of(made)
    assert (sample.name, sample.others, int(sample.inside.sum())) == ("A", [1, 2, 3], 120)
    ill, truth = sample.inside[:, None], made.truth
    logits = made.students[LITE0]["system_b"].logits[0]
    positive = truth.split.targets == 1
    everyone = np.ones_like(positive)
    expected = [
        brute_auroc(truth, logits, [0, 1, 2, 3], everyone),
        brute_auroc(truth, logits, [1, 2, 3], everyone & ill),
        brute_auroc(truth, logits, [1, 2, 3], positive | ~ill),
    ]
    found = [measure(logits) for measure in (sample.everywhere, sample.within, sample.between)]
    assert [values[0] for values in found] == pytest.approx(expected, abs=1e-12)
    # In a resample each figure is that of the drawn images.
    row, split = 7, truth.split
    drawn = np.repeat(np.arange(240), split.counts[split.groups, row])
    again = Truth(replace(split, targets=split.targets[drawn]), truth.folds[drawn], [])
    assert found[1][row] == pytest.approx(brute_auroc(again, logits[drawn], [1, 2, 3], (everyone & ill)[drawn]))


def test_a_sample_without_a_common_label_is_not_divided(generator: np.random.Generator) -> None:
    made = made_results(generator)
    targets = made.truth.split.targets.copy()
    targets[1] = [0, 1, 0, 0]
    other = replace(made, truth=replace(made.truth, split=replace(made.truth.split, targets=targets)))
    assert Sample.of(other) is None


def test_gains_without_a_teacher(generator: np.random.Generator) -> None:
    made = made_results(generator)
    sample = Sample.of(made)
    own = made.students[LITE0]["baseline"].logits
    averaged, blended, single = sample.alternatives(LITE0).values()
    assert np.array_equal(averaged[0], own.mean(axis=0))
    assert np.array_equal(single[1], own[1][:, [0, 0, 0, 0]])
    for fold in (0, 1):
        here = made.truth.folds == fold
        parts = stats.zscore(own[2][here], axis=0)
        np.testing.assert_allclose(blended[2][here], parts + parts[:, :1])
    assert tables.averaged(made, LITE0)[0] == pytest.approx(
        brute_auroc(made.truth, averaged[0], [0, 1, 2, 3], np.ones((240, 4), bool))
    )


def test_recipes_are_adjusted_for_their_number(generator: np.random.Generator) -> None:
    made = made_results(generator)
    p_a, p_b = (p_value(made.gain(LITE0, name).mean(axis=0)) for name in ("system_a", "system_b"))
    assert p_b < 0.02 < p_a
    assert adjusted(made, LITE0) == pytest.approx({"system_a": p_a, "system_b": 2 * p_b})
    text = tables.count_above(made, LITE0)
    assert text.startswith("of 2 recipes with a teacher 1 has an interval above zero (`system_b`)")


def test_a_share_of_a_lead_has_an_interval_and_says_whose_lead(generator: np.random.Generator) -> None:
    made = made_results(generator)
    gain, ahead = made.gain(EEEA, "system_b").mean(axis=0), lead(made, EEEA, LITE2, [0])
    base = made.students[EEEA]["baseline"].macro.mean(axis=0)
    np.testing.assert_allclose(ahead, made.teachers[LITE2].macro[0] - base)
    share = gain / ahead
    lower, upper = np.quantile(share[1:], [0.025, 0.975])
    text = tables.gain_text(made, EEEA, "system_b")
    assert f"of the one seed that taught, is {ahead[0]:+.3f} [" in text
    assert f"and the gain {share[0]:.0%} [{lower:.0%}, {upper:.0%}] of it" in text
    # DenseNet is not ahead, so there is no share of a lead.
    behind = replace(made, teachers={LITE2: made.teachers[DENSENET]})
    assert "%" not in tables.gain_text(behind, EEEA, "system_b")


def test_interval_over_patients_and_seeds_is_satterthwaites(generator: np.random.Generator) -> None:
    differences = 0.02 + 0.004 * generator.normal(size=(3, 1)) + 0.009 * generator.normal(size=(1, 2001))
    patients = np.var(differences.mean(axis=0)[1:], ddof=1)
    seeds = np.var(differences[:, 0], ddof=1) / 3
    freedom = (patients + seeds) ** 2 / (seeds**2 / 2 + patients**2 / 59)
    expected = stats.t.interval(0.95, freedom, differences[:, 0].mean(), np.sqrt(patients + seeds))
    assert with_seeds(differences, 60) == pytest.approx(expected)
    assert with_seeds(differences[:1], 60) is None
    assert with_seeds(np.zeros((3, 50)), 60) == (0, 0)


def test_interval_over_patients_and_seeds_holds_the_truth(generator: np.random.Generator) -> None:
    """Three seeds that vary as much as patients do: an interval over patients alone would be too narrow."""
    held = {"both": 0, "patients": 0}
    for _ in range(400):
        by_patients = generator.normal(size=60)
        resampled = by_patients[generator.integers(60, size=(200, 60))].mean(axis=1)
        over_patients = np.append(by_patients.mean(), resampled)
        differences = over_patients + np.sqrt(3 / 60) * generator.normal(size=(3, 1))
        lower, upper = with_seeds(differences, 60)
        held["both"] += lower <= 0 <= upper
        plain = summarise(differences.mean(axis=0), difference=True)
        held["patients"] += plain.lower <= 0 <= plain.upper
    assert held["both"] / 400 >= 0.93
    assert held["patients"] / 400 < 0.87


def test_a_row_says_of_how_many_labels_each_figure_is(generator: np.random.Generator) -> None:
    made = made_results(generator)
    heads, _, *rows = (
        [cell.strip() for cell in text.strip("|").split("|")] for text in (*tables.header(made), *tables.table(made))
    )
    assert heads[6:9] == ["val macro AUROC, 2 labels", "test, the same 2 labels", "test macro AUROC, 4 labels"]
    assert heads[10] == "difference to the better baseline, not adjusted"
    assert all(len(row) == len(heads) for row in rows)
    titles = [row[0] for row in rows]
    assert titles[2:6] == [
        f"{LITE0}, {name}" for name in ("baseline", "system_a", "system_b", "baseline, seeds averaged")
    ]
    averaged = rows[5]
    assert averaged[3:6] == ["0.00 M", "0 M", "3 as one"]
    adjusted_ones = {row[0]: row[-1] for row in rows if row[-1]}
    assert set(adjusted_ones) == {f"{LITE0}, system_a", f"{LITE0}, system_b", f"{EEEA}, system_b"}


@pytest.mark.parametrize(
    ("shift", "words"), [(0.03, "a gain"), (-0.03, "a loss"), (0.01, "no difference shown"), (0, "no difference shown")]
)
def test_a_verdict_is_what_an_interval_shows(generator: np.random.Generator, shift: float, words: str) -> None:
    differences = np.append(shift, generator.normal(shift, 0.01, 2000))
    assert tables.verdict(differences) == words
    undefined = np.append(differences[:1], np.full(2000, np.nan))
    assert tables.verdict(undefined) == "no difference shown"


def test_sentences_follow_from_the_intervals(generator: np.random.Generator) -> None:
    made = made_results(generator)
    sample = Sample.of(made)
    table, says = summary(sample, replace(made, plan=PLANS["phantom"]))
    assert "X-rays: `system_b`, within A, 3 labels" in table
    assert "a gain by a teacher was shown; within A, in telling one finding from another, it was shown." in says
    students = {name: own | {"system_b": own["baseline"]} for name, own in made.students.items()}
    none = replace(made, students=students)
    _, says = summary(Sample.of(none), replace(none, plan=PLANS["phantom"]))
    assert "a gain by a teacher was not shown; within A, in telling one finding from another, it was not shown." in says
    assert "averaged baselines gain, which have no teacher, it was not shown: `system_b` minus these is -0." in says
    assert says.endswith("Of the rows below, with the spread over seeds counted, what stays above zero is nothing.")
    assert f"{LITE0}, baseline: each logit + that of A" in halves(sample)


def test_the_readme_says_what_the_results_say(root: Path) -> None:
    """Every row and sentence of the README's figures is in docs/results.md, and both describe the X-rays."""

    def blocks(page: str, name: str) -> str:
        text = (root / page).read_text(encoding="utf-8")
        return text.partition(f"<!-- {name}: begin -->\n")[2].partition(f"\n<!-- {name}: end -->")[0]

    readme = [*blocks("README.md", "measured").splitlines(), *blocks("README.md", "results").splitlines()]
    sample, full = blocks("docs/results.md", "sample"), blocks("docs/results.md", "xrays").splitlines()
    rows = {tables.shortened(text) for text in full if text.startswith("|")}
    in_short = {text for text in readme if text.startswith("|")}
    assert in_short == rows | {text for text in sample.splitlines() if text.startswith("|")}
    prose = [text for text in readme if text and not text.startswith(("|", "<"))]
    assert len(prose) == 5
    assert all(text in full or text in sample for text in prose[2:])
    assert prose[0] in sample
    assert "500 of the 1,000 images have Pneumonia, 500 no finding" in prose[0]
    assert any("`medistill check` warns" in text for text in prose)
    assert "right places" not in (root / "README.md").read_text(encoding="utf-8")


# Controls


def test_nobody_keeps_an_answer_of_its_own_when_they_are_shuffled() -> None:
    for count, seed in itertools.product((2, 3, 50), range(5)):
        places = derangement(count, seed)
        assert sorted(places) == list(range(count))
        assert not (places == np.arange(count)).any()
    assert not np.array_equal(derangement(50, 0), derangement(50, 1))
    assert np.array_equal(derangement(50, 1), derangement(50, 1))


def test_shuffled_answers_are_those_about_other_images_in_the_same_view() -> None:
    class Echo:
        """Answers with the numbers of the images that it is asked about, and the view."""

        name, checksum, seen, map_shape, unknown = "echo", "abc", None, [1, 2, 2], []

        def answer(self, batch: Batch, needs: set[str]) -> dict[str, torch.Tensor]:
            return {"logits": torch.tensor([[float(name), float(batch.view)] for name in batch.image_ids])}

    rows = pd.DataFrame({"image_id": list("01234"), "split": ["train"] * 4 + ["test"]})
    dataset = SimpleNamespace(split=lambda name: rows[rows["split"] == name])
    one, same, other = (shuffle(Echo(), dataset, seed) for seed in (1, 1, 2))
    batch = Batch(image_ids=["3", "0", "2", "1"], view=5, targets=torch.zeros(4, 2))
    answers = one.answer(batch, set())["logits"].tolist()
    assert sorted(answers) == [[0, 5], [1, 5], [2, 5], [3, 5]]
    assert all(int(answer) != int(name) for (answer, _), name in zip(answers, batch.image_ids, strict=True))
    assert one.checksum == same.checksum
    assert len({one.checksum, other.checksum, "abc"}) == 3


# Hours


def test_hours_are_those_of_images_epochs_and_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "_images", lambda job, root: 100)
    pace = hours.Pace(None, {EEEA: 0.5})
    epochs = PLANS["kermany"].epochs
    student, teacher = Job("kermany", 0, EEEA, "baseline", 0), Job("kermany", 0, LITE2_224, None, 0)
    assert pace.seconds(student) == hours.ONCE + 0.5 * 100 * epochs[EEEA]
    assert pace.seconds(teacher) == hours.ONCE + hours.OTHERS[LITE2] * (224 / 96) ** 2 * 100 * epochs[LITE2_224]
    table = hours.overview([[student, teacher], [student]], pace)
    whole = (2 * pace.seconds(student) + pace.seconds(teacher)) / 3600
    assert f"| kermany | {EEEA} | 2 | {2 * pace.seconds(student) / 3600:.1f} |" in table
    assert table.endswith(f"| all |  | 3 | {whole:.1f} |")


# Kept outcomes


def settings_of(monkeypatch: pytest.MonkeyPatch, data: str) -> list[str]:
    """The settings' hashes of all students of a plan's first fold and seed, as if its images were known."""
    plan = PLANS[data]
    monkeypatch.setattr(plans, "open_fold", lambda *_, **__: SimpleNamespace(fingerprint="dataset"))
    monkeypatch.setattr(plans, "_share", lambda setting: 0.25)
    monkeypatch.setattr(Setting, "_content", "pixels, labels, groups and splits")
    plans.setting_of.cache_clear()
    jobs = [Job(data, 0, student, name, 0) for student, rows in plan.students.items() for name in rows]
    found = [plans.locate(job, None).settings for job in jobs]
    plans.setting_of.cache_clear()
    return found


@pytest.mark.parametrize(("data", "whole"), [("phantom", "62728f7f2f37"), ("xrays", "ae068ec796d4")])
def test_a_new_option_does_not_make_kept_outcomes_worthless(
    monkeypatch: pytest.MonkeyPatch, data: str, whole: str
) -> None:
    """The hash of a plan's hashes: where it moves, outcomes of hours are lost, and the tables with them."""
    found = settings_of(monkeypatch, data)
    assert hashlib.sha256(" ".join(found).encode()).hexdigest()[:12] == whole


def test_the_rows_of_five_seeds_keep_their_outcomes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for rows in PLANS["kermany"].students.values() for name in rows]
    found = dict(zip(names[: len(PLANS["kermany"].students[EEEA])], settings_of(monkeypatch, "kermany"), strict=False))
    expected = {"baseline": "44103b32", "random": "628cce42", "system_b": "73405790", "shuffled": "a55c68af"}
    assert {name: found[name] for name in (*expected, "self")} == expected | {"self": "3c1b01ea"}
