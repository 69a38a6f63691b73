"""Groups by hand, AUROC by scikit-learn on each part, misses by a loop, and changes from the two gaps."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medistill.evaluation.answers import Answers, Split, Validation
from medistill.evaluation.operating import operating_points
from medistill.evaluation.subgroups import Part, measure_subgroups, parts_of
from medistill.metrics.intervals import compare, holm
from medistill.metrics.ranking import measure_ranking
from medistill.task import Calibration, Task

LABELS = ["a", "b", "rare"]
IMAGES = 400


def rows(**columns) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    empty = {"sex": [None] * count, "age": [np.nan] * count, "view": [None] * count, "source": [None] * count}
    return pd.DataFrame(empty | columns)


def shown(parts: list[Part]) -> list[tuple]:
    return [(p.attribute, p.group, p.inside.tolist(), p.rest.tolist(), p.mirrored) for p in parts]


def test_unknown_values_are_in_no_part_and_of_two_groups_one_gap_is_enough():
    found = parts_of(rows(sex=["F", "M", None, "M", ""]))
    assert shown(found) == [
        ("sex", "M", [False, True, False, True, False], [True, False, False, False, False], False),
        ("sex", "F", [True, False, False, False, False], [False, True, False, True, False], True),
    ]


def test_ages_are_in_bands_by_their_lower_bound():
    found = parts_of(rows(age=[0.0, 39.9, 40.0, 59.0, 60.0, 101.0, np.nan]))
    assert [(p.group, np.flatnonzero(p.inside).tolist(), np.flatnonzero(p.rest).tolist()) for p in found] == [
        ("0–39", [0, 1], [2, 3, 4, 5]),
        ("40–59", [2, 3], [0, 1, 4, 5]),
        ("60 and over", [4, 5], [0, 1, 2, 3]),
    ]
    assert not any(p.mirrored for p in found)


def test_an_attribute_with_one_value_makes_no_groups_and_of_many_values_the_frequent_ones_do():
    assert parts_of(rows(view=["PA"] * 4, sex=["F", None, None, None], age=[50.0, 51.0, 52.0, 53.0])) == []
    sources = [f"s{k}" for k in range(12) for _ in range(k + 1)]
    found = parts_of(rows(source=sources))
    assert [p.group for p in found] == [f"s{k}" for k in range(11, 3, -1)]
    assert all((p.inside | p.rest).all() for p in found)  # the others are still among the rest


def test_a_value_that_a_terminal_would_obey_is_named_escaped():
    found = parts_of(rows(source=["a\x1b[2J", "b\u202e", "b\u202e"]))
    assert [p.group for p in found] == [r"b\u202e", r"a\x1b[2J"]
    assert found[0].inside.tolist() == [False, True, True]


def truth(seed: int = 0):
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(IMAGES // 2), 2)
    targets = (random.random((IMAGES, 3)) < [0.4, 0.3, 0.02]).astype(float)
    targets[::11, 1] = np.nan
    about = rows(
        sex=np.where(groups % 3 == 0, "F", "M").tolist(),
        view=[("PA", "AP", "LATERAL", None)[k % 4] for k in range(IMAGES)],
    )
    return targets, groups, about


def answers(strength: float, seed: int, task: Task = Task.MULTILABEL) -> Answers:
    targets, groups, _ = truth()
    if task.exclusive:
        targets = np.eye(3)[np.random.default_rng(5).integers(0, 3, IMAGES)]
    logits = strength * np.nan_to_num(targets) - 1 + np.random.default_rng(seed).normal(size=targets.shape)
    split = Split.of(LABELS, targets, groups, 200, 0, task, "val")
    return Answers(split, logits, Calibration(task).probabilities(logits))


@pytest.fixture(scope="module")
def found():
    models = {"base": answers(1.0, 1), "kd": answers(2.0, 2)}
    operating = {name: operating_points(Validation(answers(2.0, 9)), own) for name, own in models.items()}
    parts = parts_of(truth()[2])
    return models, parts, operating, measure_subgroups(parts, models, operating, {"kd": ["base"], "base": []})


def test_auroc_is_scikit_learns_within_the_group_and_the_gap_is_to_the_rest(found):
    models, parts, _, subgroups = found
    assert [(s.attribute, s.group) for s in subgroups["kd"]] == [
        *(("sex", "M"), ("sex", "F")),
        *(("view", "AP"), ("view", "LATERAL"), ("view", "PA")),
    ]
    for name, own in models.items():
        for part, group in zip(parts, subgroups[name], strict=True):
            assert group.labels == ["a", "b"]  # the rare one has too few positives
            assert (group.images, group.groups) == (part.inside.sum(), len(np.unique(own.split.groups[part.inside])))
            means = []
            for chosen in (part.inside, part.rest):
                known = [chosen & ~np.isnan(own.split.targets[:, k]) for k in (0, 1)]
                means.append(
                    np.mean([roc_auc_score(own.split.targets[at, k], own.logits[at, k]) for k, at in enumerate(known)])
                )
            assert group.auroc.estimate == pytest.approx(means[0], abs=1e-12)
            assert group.auroc.lower < means[0] < group.auroc.upper
            if part.mirrored:
                assert group.gap.estimate is None
            else:
                assert group.gap.estimate == pytest.approx(means[0] - means[1], abs=1e-12)
                assert group.gap.lower < group.gap.estimate < group.gap.upper


def test_what_is_missed_is_counted_by_image(found):
    models, parts, operating, subgroups = found
    for name, own in models.items():
        at = [next(p.threshold for p in points if p.kind == "specificity") for points in operating[name].values()]
        for part, group in zip(parts, subgroups[name], strict=True):
            shares = []
            for chosen in (part.inside, part.rest):
                ill = [k for k in np.flatnonzero(chosen) if (own.split.targets[k] == 1).any()]
                shares.append(np.mean([not (own.probabilities[k] >= at).any() for k in ill]))
            assert group.missed.estimate == pytest.approx(shares[0], abs=1e-12)
            if not part.mirrored:
                assert group.missed_gap.estimate == pytest.approx(shares[0] - shares[1], abs=1e-12)


def test_a_change_is_the_difference_of_two_gaps_adjusted_over_all_of_them(found):
    models, parts, _, subgroups = found
    expected = []
    for part in (part for part in parts if not part.mirrored):
        gaps = []
        for own in (models["kd"], models["base"]):
            inside, rest = (
                measure_ranking(own.split.targets[at, :2], own.logits[at, :2], own.split.groups[at], own.split.counts)[
                    0
                ].mean(axis=1)
                for at in (part.inside, part.rest)
            )
            gaps.append(inside - rest)
        expected.append(compare(*gaps, models["kd"].split.counts))
    adjusted = holm([p for _, p in expected])
    seen = [group.changes["base"] for group in subgroups["kd"] if group.changes]
    assert len(seen) == 4  # one of two sexes, three views
    for change, (estimate, p), p_holm in zip(seen, expected, adjusted, strict=True):
        assert (change.change, change.p, change.p_holm) == (estimate, p, p_holm)
    assert all(group.changes == {} for group in subgroups["base"])


def test_small_groups_are_named_and_not_scored():
    targets, _, _ = truth()
    about = rows(sex=["F"] * 12 + ["M"] * (len(targets) - 12))
    own = answers(2.0, 2)
    (_, few) = measure_subgroups(parts_of(about), {"m": own}, {"m": operating_points(Validation(own), own)}, {})["m"]
    assert (few.group, few.images, few.labels) == ("F", 12, [])
    assert few.auroc.estimate is few.gap.estimate is few.missed.estimate is None


def test_exclusive_classes_have_ranks_and_no_misses():
    own = answers(2.0, 2, Task.MULTICLASS)
    groups = measure_subgroups(parts_of(truth()[2]), {"m": own}, {"m": operating_points(Validation(own), own)}, {})["m"]
    assert groups[0].labels == LABELS
    assert groups[0].auroc.estimate > 0.7
    assert groups[0].missed.estimate is None


def test_a_model_that_lacks_a_label_has_no_mean_over_it():
    own = answers(2.0, 2)
    own.logits[:, 1] = own.probabilities[:, 1] = np.nan
    group = measure_subgroups(parts_of(truth()[2]), {"m": own}, {"m": operating_points(Validation(own), own)}, {})["m"][
        0
    ]
    assert group.labels == ["a", "b"]
    assert group.auroc.estimate is None
