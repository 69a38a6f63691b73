"""Pointing game, energy and priors by hand; intervals against a bootstrap that copies patients."""

import numpy as np
import pytest
import torch
from torch import nn

from medistill.explain.cam import grad_cam, upsample
from medistill.explain.localisation import NO_TRUTH, Maps, conclusion, difference, inconclusive, localise
from medistill.explain.scores import Scores, overlap, peak, score
from medistill.explain.selection import Finding
from medistill.explain.targets import box_mask, sides, targets
from medistill.metrics.means import mean_interval, paired_interval
from medistill.models.classifier import Classifier
from medistill.records.estimate import Estimate
from medistill.records.explain import REFERENCES
from tests.filled import model_maps

TOP_LEFT = (0.0, 0.0, 0.5, 0.25)
BOTTOM_RIGHT = (0.75, 0.5, 0.25, 0.5)
MIDDLE = (0.25, 0.25, 0.5, 0.5)


def finding(*boxes, image="a", label="Mass", group=None, split="test") -> Finding:
    return Finding(image, label, group or image, split, boxes)


def maps_of(own: Scores, size=(4, 4), wrong=None, random=None, called=None) -> Maps:
    count = len(own.hits)
    nothing, missing = (Scores(*np.full((3, count), value)) for value in (0.0, np.nan))
    return Maps(own, wrong or missing, random or nothing, size, np.ones(count) if called is None else called)


class Passing(nn.Module):
    """A backbone whose feature map is its input and whose logit k is 16 times the mean of channel k.

    Then α of channel k is 1 for logit k and 0 for the others, so the map of label k is ReLU of channel k.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(16.0 * 16))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.scale * features.mean(dim=(2, 3))


def known_network_maps(rows_columns: list[tuple[int, int]]) -> np.ndarray:
    images = torch.zeros(len(rows_columns), 2, 4, 4)
    for k, (row, column) in enumerate(rows_columns):
        images[k, 1, row, column] = 1.0
        images[k, 0, 3 - row, 3 - column] = 5.0  # evidence for the other label must not count
    maps, _ = grad_cam(
        Classifier(Passing(), {"mean": [0.0, 0.0], "std": [1.0, 1.0]}), images, np.ones(len(rows_columns), int)
    )
    np.testing.assert_allclose(maps, 16 * images[:, 1].numpy())  # α = 256 / 16 cells
    return maps


def test_network_that_looks_at_the_box_wins_and_one_that_looks_away_loses():
    boxed = [finding(TOP_LEFT, image="a"), finding(BOTTOM_RIGHT, image="b")]
    where = targets(boxed, 16)
    at_it = score(upsample(known_network_maps([(0, 1), (2, 3)]), 16), where.masks)
    away = score(upsample(known_network_maps([(3, 0), (0, 0)]), 16), where.masks)
    assert localise(boxed, where, maps_of(at_it)).to_json()["pointing_game"]["estimate"] == 1
    assert localise(boxed, where, maps_of(away)).to_json()["pointing_game"]["estimate"] == 0
    assert at_it.energy.min() > away.energy.max()


def test_energy_chance_and_centre_prior_by_hand():
    frames = np.zeros((2, 4, 4), np.float32)
    frames[0, 0, 0], frames[0, 3, 3] = 3.0, 1.0  # 3 of 4 in the top left box
    frames[1] = 1.0
    frames[1, 1, 1] = 2.0  # 5 of 17 in the middle box
    where = targets([finding(TOP_LEFT), finding(MIDDLE)], 4)
    result = score(frames, where.masks)
    np.testing.assert_allclose(result.energy, [0.75, 5 / 17])
    np.testing.assert_array_equal(result.hits, [1, 1])
    np.testing.assert_allclose(where.chance.hits, [2 / 16, 4 / 16])
    np.testing.assert_array_equal(where.centre.hits, [0, 1])


def test_two_boxes_of_one_label_are_one_target():
    overlapping = finding(TOP_LEFT, (0.25, 0.0, 0.5, 0.25), BOTTOM_RIGHT)
    where = targets([overlapping], 4)
    assert where.chance.hits[0] == (3 + 2) / 16  # the union, not the sum of 2 + 2 + 2
    frames = np.zeros((1, 4, 4), np.float32)
    for row, column, hit in ((0, 2, 1), (3, 3, 1), (1, 1, 0)):
        frames[:] = 0
        frames[0, row, column] = 1
        assert score(frames, where.masks).hits == [hit]
    result = localise([overlapping], where, maps_of(score(frames, where.masks))).to_json()
    assert (result["findings"], result["boxes"], result["images"], result["groups"]) == (1, 3, 1, 1)


def test_flat_maps_are_misses():
    where = targets([finding((0.0, 0.0, 1.0, 1.0))] * 2, 4)
    frames = np.stack([np.zeros((4, 4)), np.ones((4, 4))]).astype(np.float32)
    result = score(frames, where.masks)
    np.testing.assert_array_equal(result.hits, [0, 0])
    np.testing.assert_array_equal(result.energy, [0, 1])
    assert result.peaks == [None, None]
    assert localise([finding(MIDDLE)] * 2, where, maps_of(result)).to_json()["flat_maps"] == 2


@pytest.mark.parametrize("cell", [(0, 0), (0, 3), (3, 0), (3, 3), (1, 2), (2, 0)])
def test_peak_lies_in_the_cell_that_is_largest(cell):
    maps = np.full((1, 4, 4), 0.1, np.float32)
    maps[0][cell] = 1.0
    row, column = peak(upsample(maps, 32)[0])
    assert (row // 8, column // 8) == cell


def test_peak_is_not_pulled_to_the_corner():
    """The border of an interpolated map is a plateau; the first of its pixels would be the frame's corner."""
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 3, 3] = 1.0
    assert peak(upsample(maps, 32)[0]) == peak(upsample(maps[:, ::-1, ::-1].copy(), 32)[0][::-1, ::-1])
    assert peak(upsample(maps, 32)[0])[0] > 28


def test_box_mask_counts_pixel_centres_and_keeps_tiny_boxes():
    mask = box_mask(((0.25, 0.5, 0.5, 0.25),), 8)
    assert mask.sum() == 8
    assert mask[4:6, 2:6].all()
    tiny = box_mask(((0.999, 0.999, 0.001, 0.001),), 8)
    assert tiny.sum() == 1
    assert tiny[7, 7]


def test_models_are_paired():
    """A constant lead has no spread, however much the findings differ from one another."""
    rng = np.random.default_rng(0)
    boxed = [finding(MIDDLE, image=str(k)) for k in range(30)]
    energy = rng.random(30) / 2
    hits = (energy > 0.2).astype(float)
    teacher, student = Scores(hits, energy, energy), Scores(hits, energy + 0.25, energy + 0.125)
    result = difference(boxed, student, teacher).to_json()
    assert list(result["energy"].values()) == pytest.approx([0.25] * 3)
    assert list(result["overlap"].values()) == pytest.approx([0.125] * 3)
    # Two models that agree on 30 findings may differ on others: 0 of 30 is compatible with 11 %.
    assert list(result["pointing_game"].values()) == pytest.approx([0, -0.1135, 0.1135], abs=1e-4)


def test_tables_by_label_and_split():
    boxed = [
        finding(TOP_LEFT, image="a"),
        finding(MIDDLE, image="b", label="Nodule", split="val"),
        finding(MIDDLE, TOP_LEFT, image="c", group="b", label="Nodule"),
    ]
    where = targets(boxed, 4)
    energy = np.array([0.5, 0.1, 0.3])
    scores = Scores(np.array([1.0, 0.0, 1.0]), energy, energy / 2, [(0, 0), (3, 3), (0, 0)])
    result = localise(boxed, where, maps_of(scores, called=np.array([1.0, 0.0, np.nan]))).to_json()
    assert result["pointing_game"]["estimate"] == pytest.approx(2 / 3)
    assert (result["boxes"], result["boxes_val"], result["boxes_test"]) == (4, 1, 3)
    nodule = result["labels"]["Nodule"]
    assert nodule["pointing_game"]["estimate"] == 0.5
    assert nodule["energy"]["estimate"] == pytest.approx(0.2)
    assert nodule["overlap"]["estimate"] == pytest.approx(0.1)
    assert nodule["energy_ratio"]["estimate"] == pytest.approx((0.1 / (4 / 16) + 0.3 / (6 / 16)) / 2)
    assert [result[f"{name}_findings"] for name in ("detected", "missed")] == [1, 1]
    assert [result[name]["estimate"] for name in ("detected", "missed")] == [1, 0]
    assert nodule["chance"] == pytest.approx((4 + 6) / 2 / 16)
    assert nodule["centre_prior"] == 1.0
    assert (nodule["findings"], nodule["groups"], nodule["images"], nodule["boxes"]) == (2, 1, 2, 3)
    assert set(result["labels"]) == {"Mass", "Nodule"}
    assert NO_TRUTH.to_json().keys() == result.keys()


def test_what_is_conclusive():
    found = sides(finding((0, 0, 0.5, 0.5), (0, 0, 0.25, 0.25), (0, 0, 0.8, 0.2)))
    assert found == pytest.approx([0.5, 0.25, 0.4])
    assert inconclusive((5, 5), found, 10) == ""  # a cell is as wide as half of the median side
    said = "too coarse: a cell of the 4×4 map is 0.6 times as wide as a finding"
    assert inconclusive((4, 4), found, 10) == inconclusive((4, 4), found, 2) == said
    assert inconclusive((5, 5), found, 9) == "findings from 9 groups, fewer than 10"


def test_the_usual_place_is_where_most_boxes_of_other_groups_are():
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)
    boxed = [
        finding(left, image="a"),
        finding(left, image="b"),
        finding(right, image="c", group="c"),
        finding(right, image="d", group="c"),
        finding(right, image="e", group="c"),
        finding(right, image="f", label="Nodule"),
    ]
    # Without its own, the left side has a box of b (of a), and the right side three of c; c is judged by a and b.
    np.testing.assert_array_equal(targets(boxed, 8).usual.hits, [0, 0, 0, 0, 0, np.nan])
    np.testing.assert_array_equal(targets([*boxed[:2], finding(left, image="g"), boxed[2]], 8).usual.hits, [1, 1, 1, 0])


def test_every_prior_and_null_is_compared_finding_by_finding():
    rng = np.random.default_rng(0)
    boxed = [finding(TOP_LEFT if k % 2 else MIDDLE, image=str(k), group=str(k // 2)) for k in range(40)]
    where, (hits, energy, met) = targets(boxed, 16), rng.integers(0, 2, (3, 40)).astype(float)
    wrong, random = rng.integers(0, 2, (2, 40)).astype(float)
    wrong[:5] = np.nan
    groups = np.array([f.group_id for f in boxed])
    own = Scores(hits, energy, met, [(0, 0)] * 40)
    nulls = Scores(wrong, wrong / 2, wrong / 4), Scores(random, random / 2, random / 4)

    result = localise(boxed, where, maps_of(own, (16, 16), *nulls))

    for prior, lead, values in (
        (result.centre_prior, result.difference_centre, where.centre.hits),
        (result.label_prior, result.difference_label_prior, where.usual.hits),
        (result.wrong_label.estimate, result.difference_wrong_label, wrong),
        (result.random_weights.estimate, result.difference_random_weights, random),
    ):
        known = ~np.isnan(values)
        assert prior == pytest.approx(values[known].mean())
        assert lead == paired_interval(hits[known], values[known], groups[known])
    assert result.labels["Mass"].wrong_label == result.wrong_label
    references = dict(zip(REFERENCES, (where.chance, where.centre, where.usual, *nulls), strict=True))
    for figure, values in (("energy", energy), ("overlap", met)):
        found = getattr(result, f"{figure}_beside")
        assert list(found) == list(REFERENCES)
        for name, reference in references.items():
            other = getattr(reference, figure)
            known = ~np.isnan(other)
            assert found[name].value == pytest.approx(other[known].mean())
            lead = mean_interval((values - other)[known], groups[known], difference=True)
            assert found[name].difference == lead


def test_the_overlap_is_of_as_many_pixels_as_the_truth_has():
    rng = np.random.default_rng(0)
    for _ in range(20):
        frame, mask = rng.random((9, 9), np.float32), rng.random((9, 9)) < 0.3
        strongest = np.zeros(81, bool)
        strongest[np.argsort(-frame.ravel())[: mask.sum()]] = True
        both, either = strongest & mask.ravel(), strongest | mask.ravel()
        assert overlap(frame, mask) == pytest.approx(both.sum() / either.sum())
    corner = box_mask((TOP_LEFT,), 4)
    tied = np.float32([[1, 0, 0, 0]] + [[0] * 4] * 3)  # one pixel, and one more of the other 15, of which 1 is inside
    assert overlap(tied, corner) == pytest.approx((1 + 1 / 15) / (4 - 1 - 1 / 15))
    flat = score(np.ones((1, 4, 4), np.float32), corner[None])
    assert flat.overlap == [0]


def test_priors_meet_masks_as_maps_do():
    """The usual place is the map of where others have it; chance is what random pixels meet on average."""
    left, wide = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.75, 1.0)
    boxed = [finding(left, image="a"), finding(left, image="b"), finding(wide, image="c")]
    where = targets(boxed, 4)
    np.testing.assert_allclose(where.usual.energy, [16 / 20, 16 / 20, 1])
    np.testing.assert_allclose(where.usual.overlap, [1, 1, (8 + 4 * 0.5) / (24 - 10)])  # 4 of 8 tied pixels are inside
    np.testing.assert_allclose(where.chance.overlap, [1 / 3, 1 / 3, 0.75 / 1.25])
    rng = np.random.default_rng(0)
    drawn = [score(rng.random((1, 4, 4), np.float32), where.masks[:1]).overlap[0] for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(where.chance.overlap[0], abs=0.02)
    np.testing.assert_allclose(where.centre.energy[:2], 0.5)


def test_a_mask_is_a_truth_as_a_box_is():
    mask = np.zeros((8, 8), bool)
    mask[4:8, 0:4], mask[0, 7] = True, True
    masked = Finding("a", "Mass", "a", "test", mask=mask)
    where, boxed = (targets([of], 8) for of in (masked, finding((0, 0.5, 0.5, 0.5), (0.875, 0, 0.125, 0.125))))
    np.testing.assert_array_equal(where.masks, boxed.masks)
    assert where.chance.hits[0] == 17 / 64
    assert where.centre.hits[0] == 0
    assert sides(masked) == [0.5]  # the largest part
    own = score(mask[None].astype(np.float32), where.masks)
    table = localise([masked], where, maps_of(own, (8, 8)))
    assert (table.masks, table.boxes, table.findings) == (1, 0, 1)
    assert (table.energy.estimate, table.overlap.estimate) == (1, 1)


def said(chance: tuple, centre: tuple, usual: tuple = (0.1, 0.2), **changes) -> str:
    """The conclusion from the intervals of the differences to chance, to the centre and to the usual place."""
    bounds = {"difference_chance": chance, "difference_centre": centre, "difference_label_prior": usual}
    entry = {key: Estimate(0.0, lower, upper) for key, (lower, upper) in bounds.items()}
    return conclusion(model_maps(**{"findings": 20, "flat_maps": 10} | entry | changes))


@pytest.mark.parametrize(
    ("chance", "centre", "usual", "words"),
    [
        ((-0.09, -0.01), (-0.3, -0.1), (-0.5, -0.4), ("worse than", "worse than", "worse than")),
        (
            (-0.05, 0.30),
            (-0.2, -0.1),
            (-0.5, 0.1),
            ("not shown to differ from", "worse than", "not shown to differ from"),
        ),
        ((0.01, 0.12), (-0.14, -0.02), (0.1, 0.2), ("better than", "worse than", "better than")),
        ((0.05, 0.30), (0, 0.15), (-0.1, 0), ("better than", "not shown to differ from", "not shown to differ from")),
    ],
)
def test_the_conclusion_follows_from_the_paired_intervals(chance, centre, usual, words):
    names = ("chance", "pointing at the centre", "pointing at the label's usual place")
    assert said(chance, centre, usual) == ", ".join(f"{word} {name}" for word, name in zip(words, names, strict=True))
    assert said(chance, centre, usual, conclusive=False, reason="map of 2×2 cells") == "none: map of 2×2 cells"


def test_without_an_interval_there_is_no_conclusion():
    assert said((None, None), (0.05, 0.25)) == "none: too few findings for an interval"


def test_conclusions_compare_finding_by_finding():
    """Large boxes are hit more often, also by chance: the share of hits varies much, its lead over chance little."""
    large, small = (0.0, 0.0, 1.0, 0.75), (0.0, 0.0, 0.25, 0.125)
    boxed = [finding(large if k < 16 else small, image=str(k)) for k in range(40)]
    where = targets(boxed, 16)
    hits = np.array([1.0] * 18 + [0.0] * 22)  # every large box, and two of 24 small ones
    result = localise(boxed, where, maps_of(Scores(hits, hits, hits, [(0, 0)] * 40), (16, 16))).to_json()
    assert mean_interval(hits, np.arange(40)).lower < result["chance"]  # against the mean chance nothing is shown
    assert result["difference_chance"]["lower"] > 0.05
    assert result["conclusion"].startswith("better than chance")


def test_flat_maps_are_not_called_pointing():
    assert said((0.1, 0.2), (0.1, 0.2), flat_maps=11) == "most maps are flat (11 of 20), so no conclusion"
