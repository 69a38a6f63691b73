"""The shortcut probe on data whose shortcuts were planted."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medistill.audit import shortcuts
from medistill.audit.shortcuts import CUES, border_features, deal_folds, probe_shortcuts

IMAGES, PATIENTS, SIZE = 400, 200, 64
LABELS = ["Mass", "Nodule", "Edema"]
WARN = 0.65


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def rows(random) -> pd.DataFrame:
    """Two images per patient; view, size and source are independent of the labels."""
    width = random.choice([1024, 2048, 2500], IMAGES)
    return pd.DataFrame(
        {
            "group_id": [f"p{i // 2}" for i in range(IMAGES)],
            "view": random.choice(["AP", "PA"], IMAGES),
            "source": random.choice(["north", "south", "east"], IMAGES),
            "width": width,
            "height": random.choice([1024, 2048, 2500], IMAGES),
        }
    )


@pytest.fixture
def targets(random) -> np.ndarray:
    return (random.random((IMAGES, 3)) < 0.25).astype(np.float32)


@pytest.fixture
def frames(random) -> np.ndarray:
    """Noise on a slope, brighter in some images than in others."""
    slope = np.linspace(20, 90, SIZE)[:, None] + random.normal(0, 15, (IMAGES, 1, 1, 1))
    return np.clip(slope + random.normal(0, 12, (IMAGES, 1, SIZE, SIZE)), 0, 255).astype(np.uint8)


def tag(frames: np.ndarray, target: np.ndarray, random: np.random.Generator, top: int, left: int) -> np.ndarray:
    """A white square of 5 pixels on 80 % of the positives and 5 % of the negatives."""
    tagged = frames.copy()
    tagged[random.random(len(frames)) < np.where(target == 1, 0.8, 0.05), :, top : top + 5, left : left + 5] = 255
    return tagged


def told(table: pd.DataFrame) -> set[tuple[str, str]]:
    """Labels and cues for which there would be a warning."""
    return set(table.loc[table["lower"] > WARN, ["label", "cue"]].itertuples(index=False, name=None))


def shuffled_between_patients(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    patients = targets.reshape(PATIENTS, 2, -1)
    return patients[random.permutation(PATIENTS)].reshape(targets.shape)


# the border


def cells_by_hand(frame: np.ndarray, width: int) -> list[np.ndarray]:
    """Pixels of the 48 cells of each channel of a frame: first top and bottom, then left and right."""
    size = frame.shape[-1]
    middle = [int(width + k * (size - 2 * width) / 4) for k in range(4)]
    lines = [0, width // 2, *middle, size - width, size - width // 2, size]
    spans = list(itertools.pairwise(lines))
    ends = {0, 1, 6, 7}
    cells = []
    for chosen in (lambda i, j: i in ends, lambda i, j: i not in ends and j in ends):
        for channel in frame:
            for (i, (top, bottom)), (j, (left, right)) in itertools.product(enumerate(spans), repeat=2):
                if chosen(i, j):
                    cells.append(channel[top:bottom, left:right])
    return cells


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (128, 1), (101, 3)])
def test_a_border_is_mean_and_deviation_of_each_of_its_cells(random, size, channels):
    frames = random.integers(0, 256, (3, channels, size, size), np.uint8)
    features = border_features(frames)
    assert features.shape == (3, 96 * channels)
    assert features.dtype == np.float32
    for frame, feature in zip(frames, features, strict=True):
        cells = cells_by_hand(frame, 8)
        assert len(cells) == 48 * channels
        # (means, deviations) of top and bottom, then of left and right
        first = 32 * channels
        order = [np.mean, np.std]
        expected = [f(c) for part in (cells[:first], cells[first:]) for f in order for c in part]
        np.testing.assert_allclose(feature, expected, rtol=1e-5)


def test_a_border_is_its_eight_pixels_and_no_more(random):
    frame = random.integers(0, 200, (1, 1, 48, 48), np.uint8)
    plain = border_features(frame)
    for row, column in itertools.product(range(48), repeat=2):
        changed = frame.copy()
        changed[0, 0, row, column] += 50
        outer = min(row, column, 47 - row, 47 - column) < 8
        assert (border_features(changed) != plain).any() == outer, (row, column)


def test_frames_do_not_depend_on_each_other(frames):
    whole = border_features(frames)
    parts = [border_features(frames[start : start + 150]) for start in range(0, IMAGES, 150)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_flat_border_has_no_deviation():
    features = border_features(np.full((1, 1, 128, 128), 255, np.uint8))
    assert set(features.ravel().tolist()) == {0.0, 255.0}


def test_a_border_that_is_the_whole_frame_is_refused():
    frames = np.zeros((1, 1, 19, 19), np.uint8)
    with pytest.raises(ValueError, match="8 pixels does not fit into frames of 19"):
        border_features(frames)
    assert border_features(frames, width=4).shape == (1, 96)


# what is found


def test_a_corner_tag_is_found_and_named(rows, targets, frames, random):
    tagged = tag(frames, targets[:, 0], random, 2, SIZE - 7)
    table = probe_shortcuts(rows, targets, LABELS, border_features(tagged))
    assert told(table) == {("Mass", "border")}
    assert set(table["cue"]) == set(CUES)
    assert len(table) == 12
    found = table.set_index(["label", "cue"]).loc[("Mass", "border")]
    # images with a tag rank above those without: AUROC = 1/2 + (0.8 − 0.05)/2
    assert found["auroc"] == pytest.approx(0.875, abs=0.05)
    assert found["lower"] < found["auroc"] < found["upper"]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_tags_on_shuffled_labels_are_not_found(rows, targets, frames, random, seed):
    borders = border_features(tag(frames, targets[:, 0], random, 2, SIZE - 7))
    shuffled = shuffled_between_patients(targets, np.random.default_rng(seed))
    assert told(probe_shortcuts(rows, shuffled, LABELS, borders)) == set()


def test_a_tag_inside_the_image_is_not_of_the_border(rows, targets, frames, random):
    borders = border_features(tag(frames, targets[:, 0], random, 8, SIZE - 13))
    np.testing.assert_array_equal(borders, border_features(frames))
    assert told(probe_shortcuts(rows, targets, LABELS, borders)) == set()


def test_bars_beside_the_picture_are_found(rows, targets, frames):
    """Bars of two pixels: the probe distinguishes the outer half of the border from the inner one."""
    barred = frames.copy()
    barred[targets[:, 1] == 1, :, :2] = 0
    assert told(probe_shortcuts(rows, targets, LABELS, border_features(barred))) == {("Nodule", "border")}


@pytest.mark.parametrize("cue", ["view", "source"])
def test_a_value_that_goes_with_a_label_is_found_by_its_cue_alone(rows, targets, frames, random, cue):
    usual = rows[cue].mode()[0]
    often = random.random(IMAGES) < 0.85
    rows[cue] = rows[cue].where(~((targets[:, 2] == 1) & often), usual)
    rows[cue] = rows[cue].where((targets[:, 2] == 1) | ~often, rows[cue].min() if usual != rows[cue].min() else "PA")
    table = probe_shortcuts(rows, targets, LABELS, border_features(frames))
    assert told(table) == {("Edema", cue)}


def test_a_missing_view_can_be_a_cue(rows, targets, frames):
    rows["view"] = rows["view"].where(targets[:, 2] == 0)
    table = probe_shortcuts(rows, targets, LABELS, border_features(frames)).set_index(["label", "cue"])
    assert table.loc[("Edema", "view"), "auroc"] == 1
    assert told(table.reset_index()) == {("Edema", "view")}


@pytest.mark.parametrize("others", ["any", "one"])
def test_a_rare_size_is_found(rows, targets, frames, random, others):
    """Squares of one size among many smaller and larger ones, and among squares of one other size."""
    targets[:, 1] = random.random(IMAGES) < 0.05
    positive = targets[:, 1] == 1
    assert positive.sum() >= 10
    rows["width"] = random.integers(500, 3000, IMAGES) if others == "any" else 2500
    rows.loc[positive, "width"] = 1750
    rows["height"] = rows["width"]
    assert told(probe_shortcuts(rows, targets, LABELS, border_features(frames))) == {("Nodule", "size")}


def test_a_patients_own_border_does_not_tell_her_label(random):
    """Each patient has her own border and labels, which helps only if she is in several folds."""
    patients, each, labels = 100, 6, [str(k) for k in range(12)]
    own = random.normal(100, 30, (patients, 96)).repeat(each, axis=0) + random.normal(0, 1, (patients * each, 96))
    drawn = np.stack([random.permutation(patients) < 50 for _ in labels], axis=1).astype(np.float32)
    targets = drawn.repeat(each, axis=0)
    rows = pd.DataFrame({"group_id": np.arange(patients).repeat(each), "view": None, "width": 512, "height": 512})
    table = probe_shortcuts(rows, targets, labels, own)
    assert (table["cue"] == "border").all()
    assert len(table) == 12
    assert table["auroc"].mean() == pytest.approx(0.5, abs=0.06)
    assert ((table["lower"] < 0.5) & (table["upper"] > 0.5)).sum() >= 9
    assert told(table) == set()

    torn = rows.assign(group_id=range(patients * each))
    fooled = probe_shortcuts(torn, targets, labels[:2], own)
    assert (fooled["lower"] > 0.9).all()


def test_copies_of_a_patient_do_not_narrow_the_interval(rows, targets, frames):
    borders = border_features(frames)
    once = probe_shortcuts(rows, targets, LABELS, borders)
    times = np.tile(np.arange(IMAGES), 5)
    often = probe_shortcuts(rows.iloc[times], targets[times], LABELS, borders[times])
    width = (often["upper"] - often["lower"]).mean() / (once["upper"] - once["lower"]).mean()
    assert width == pytest.approx(1, abs=0.15)


# what is measured


def test_auroc_is_that_of_scikit_learn_within_each_fold(rows, targets, frames):
    borders = border_features(frames)
    table = probe_shortcuts(rows, targets, LABELS, borders).set_index(["label", "cue"])
    for k, label in enumerate(LABELS):
        target, groups = targets[:, k], pd.factorize(rows["group_id"])[0]
        folds = deal_folds(target, groups)
        areas, pairs = [], []
        for fold in range(5):
            inside, outside = folds == fold, folds != fold
            assert not set(groups[inside]) & set(groups[outside])
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, solver="newton-cholesky"))
            scores = probe.fit(borders[outside], target[outside]).predict_proba(borders[inside])[:, 1]
            areas.append(roc_auc_score(target[inside], scores))
            pairs.append(target[inside].sum() * (1 - target[inside]).sum())
        assert table.loc[(label, "border"), "auroc"] == pytest.approx(np.average(areas, weights=pairs), abs=1e-9)


def test_the_auroc_of_nothing_is_one_half_on_average(random):
    """Pooled over all folds it would be lower, as a fold with fewer positives has higher scores."""
    rows = pd.DataFrame({"group_id": range(60), "view": None, "width": 512, "height": 512})
    labels = [str(k) for k in range(40)]
    targets = np.stack([random.permutation(60) < 12 for _ in labels], axis=1).astype(np.float32)
    table = probe_shortcuts(rows, targets, labels, random.normal(size=(60, 3)))
    assert len(table) == 40
    error = table["auroc"].std() / np.sqrt(40)
    assert table["auroc"].mean() == pytest.approx(0.5, abs=2.5 * error)
    assert (table["lower"] < WARN).all()


def test_unknown_images_are_left_out(rows, targets, frames, random):
    borders = border_features(tag(frames, targets[:, 0], random, 2, 2))
    # unknown for the last patients, so that the others keep their numbers
    unknown = np.arange(IMAGES) >= 300
    masked = np.where(unknown[:, None], np.nan, targets)
    table = probe_shortcuts(rows, masked, LABELS, borders)
    without = probe_shortcuts(rows[~unknown], targets[~unknown], LABELS, borders[~unknown])
    np.testing.assert_array_equal(table["auroc"], without["auroc"])
    assert (table["images"] == 300).all()
    assert table["positives"].tolist() == np.repeat(targets[:300].sum(axis=0), 4).tolist()
    assert (abs(table[["lower", "upper"]] - without[["lower", "upper"]]).to_numpy() < 0.03).all()


def test_unknown_is_not_negative(rows, frames, random):
    target = (random.random(IMAGES) < 0.6).astype(np.float32)
    borders = border_features(tag(frames, target, random, 2, 2))

    def auroc(values: np.ndarray) -> float:
        table = probe_shortcuts(rows, values[:, None], ["Mass"], borders)
        return table.set_index("cue").loc["border", "auroc"]

    whole = auroc(target)
    assert whole == pytest.approx(0.875, abs=0.05)
    at_random = np.where(random.random(IMAGES) < 0.3, np.nan, target)
    assert auroc(at_random) == pytest.approx(whole, abs=0.05)

    positives = np.where((target == 1) & (random.random(IMAGES) < 0.7), np.nan, target)
    assert auroc(positives) == pytest.approx(whole, abs=0.06)
    # of the negatives now, those that were positive (42 % of all images) have a tag in 80 %, the true ones in 5 %
    assert auroc(np.nan_to_num(positives)) == pytest.approx(0.5 + (0.8 - 0.434) / 2, abs=0.05)


def test_a_constant_column_is_no_cue(rows, targets, frames):
    borders = border_features(frames)
    constant = rows.assign(view="PA", source=pd.Series(None, index=rows.index, dtype="str"), width=512, height=512)
    assert set(probe_shortcuts(constant, targets, LABELS, borders)["cue"]) == {"border"}
    unlisted = rows.drop(columns="source")
    assert set(probe_shortcuts(unlisted, targets, LABELS, borders)["cue"]) == {"view", "size", "border"}
    nothing = probe_shortcuts(constant, targets, LABELS, np.zeros_like(borders))
    assert nothing.empty
    assert list(nothing) == ["label", "cue", "auroc", "lower", "upper", "images", "positives"]


def test_a_cue_that_is_the_same_in_all_known_images_is_left_out(rows, targets, frames):
    targets[rows["view"] == "AP", 1] = np.nan
    table = probe_shortcuts(rows, targets, LABELS, border_features(frames))
    cues = table.groupby("label")["cue"].apply(set).to_dict()
    assert cues == {"Mass": set(CUES), "Nodule": set(CUES) - {"view"}, "Edema": set(CUES)}


def test_a_label_with_too_little_to_go_by_is_left_out(rows, targets, frames):
    targets[:, 0], targets[:, 1], targets[:, 2] = 0, 0, 0
    targets[:18:2, 0] = 1  # 9 positives
    targets[:20:2, 1] = 1  # 10, of 10 patients
    targets[:18, 2] = 1  # 18, of 9 patients
    table = probe_shortcuts(rows, targets, LABELS, border_features(frames))
    assert set(table["label"]) == {"Nodule"}
    assert set(table["positives"]) == {10}
    assert table[["auroc", "lower", "upper"]].notna().all(axis=None)


@pytest.mark.parametrize("seed", range(30))
def test_every_training_part_has_positives_and_negatives_of_any_eligible_label(seed):
    """Groups of very unequal size; ten of them with positives (or, for odd seeds, with negatives), pure or mixed."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 4, random.integers(20, 60)) * random.choice([1, 30], p=[0.9, 0.1])
    groups = random.permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    target = np.zeros(len(groups))
    side = random.choice(np.unique(groups), 10, replace=False)
    for group in side:  # ten groups with positives; some have negatives, too
        members = np.flatnonzero(groups == group)
        target[members[: random.integers(1, len(members) + 1)]] = 1
    if seed % 2:
        target = 1 - target
    folds = deal_folds(target, groups)
    assert set(folds) == set(range(5))
    assert pd.Series(folds).groupby(groups).nunique().max() == 1
    for fold in range(5):
        assert set(target[folds != fold]) == {0, 1}
        # ten groups, two per fold
        assert len(np.intersect1d(groups[folds == fold], side)) == 2 or seed % 2
    counts = pd.Series(groups).groupby(folds).nunique()
    assert counts.max() - counts.min() <= 1


def test_large_data_are_probed_on_whole_groups(monkeypatch, random):
    groups = random.permutation(np.repeat(np.arange(200), 7))
    view = random.choice(["AP", "PA"], 1400)
    rows = pd.DataFrame({"group_id": groups, "view": view, "width": 512, "height": 512})
    every = ((view == "AP") ^ (random.random(1400) < 0.2)).astype(np.float32)
    first = np.where(rows["group_id"].duplicated(), np.nan, every)  # known for one image per group
    labels, targets, borders = ["Mass", "Nodule"], np.stack([every, first], axis=1), np.zeros((1400, 96))
    whole = probe_shortcuts(rows, targets, labels, borders)
    monkeypatch.setattr(shortcuts, "MAX_IMAGES", 702)
    sample = probe_shortcuts(rows, targets, labels, borders)
    assert whole["images"].tolist() == [1400, 200]
    assert sample["images"].tolist() == [707, 101]  # 101 groups of 7 are the fewest with 702 images
    assert sample["auroc"][0] == pytest.approx(whole["auroc"][0], abs=0.05)
    assert sample["upper"][0] - sample["lower"][0] > whole["upper"][0] - whole["lower"][0]
    pd.testing.assert_frame_equal(probe_shortcuts(rows, targets, labels, borders), sample)
