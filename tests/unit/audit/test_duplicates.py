"""Near-duplicates among pictures whose copies are known."""

import cv2
import numpy as np
import pandas as pd
import pytest
from augmented_textures import jpeg, resized, texture

from medistill.audit import duplicates
from medistill.audit.alignment import MIRROR, aligned_correlation, compare, grey, local_contrast, picture
from medistill.audit.duplicates import NEIGHBOURS, SIMILARITY, near_duplicates

SIZE = 96


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Thirty unrelated pictures: uint8 (30, 1, 96, 96)."""
    return np.stack([grey(texture(seed)[None], SIZE) for seed in range(30)])


def find(frames: np.ndarray) -> pd.DataFrame:
    return near_duplicates(lambda chosen: frames[chosen], len(frames))


def pairs(table: pd.DataFrame) -> set[tuple[int, int]]:
    return set(zip(table["i"].tolist(), table["j"].tolist(), strict=True))


def curve(image: np.ndarray, change) -> np.ndarray:
    return np.clip(change(image.astype(float)), 0, 255).astype(np.uint8)


def shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    return cv2.warpAffine(image[0], np.array([[1, 0, x], [0, 1, y]]), image.shape[1:])[None]


COPIES = {
    "JPEG": jpeg,
    "resized": lambda image: resized(resized(image, round(0.6 * SIZE)), SIZE),
    "brighter": lambda image: curve(image, lambda grey_level: grey_level + 30),
    "less contrast": lambda image: curve(image, lambda grey_level: 0.6 * grey_level + 50),
    "gamma": lambda image: curve(image, lambda grey_level: 255 * (grey_level / 255) ** 1.7),
    "equalised": lambda image: cv2.equalizeHist(image[0])[None],
    "cropped": lambda image: resized(image[:, 3:, :-3], SIZE),
    "shifted": lambda image: shifted(image, 1.4, -1.4),
    "mirrored": lambda image: image[:, :, ::-1],
    "negative": lambda image: 255 - image,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_nothing_else(pictures, kind):
    copies = np.stack([COPIES[kind](image) for image in pictures[:10]])
    table = find(np.concatenate([pictures, copies]))
    assert pairs(table) == {(number, 30 + number) for number in range(10)}
    assert set(table["kind"]) == {kind if kind in ("mirrored", "negative") else "copy"}
    assert (table["correlation"] > 0.8).all()


def test_the_correlation_is_that_of_local_contrast(pictures):
    """A JPEG copy needs no alignment with its original, so the correlation can be checked directly."""
    copies = np.stack([jpeg(image, 30) for image in pictures[:5]])
    table = find(np.concatenate([pictures[:5], copies]))
    large = grey(np.concatenate([pictures[:5], copies]))
    for row in table.itertuples():
        one, other = (local_contrast(large[place], 2.5)[3:-3, 3:-3].ravel() for place in (row.i, row.j))
        assert row.correlation == pytest.approx(np.corrcoef(one, other)[0, 1], abs=0.02)
    assert len(table) == 5


def test_colour_is_seen_in_grey():
    frames = np.stack([resized(texture(seed), SIZE) for seed in range(12)])
    frames = np.concatenate([frames, np.stack([jpeg(image) for image in frames[:6]])])
    assert pairs(find(frames)) == pairs(find(grey(frames, SIZE)[:, None])) == {(n, 12 + n) for n in range(6)}


def test_the_order_of_images_does_not_matter(pictures):
    frames = np.concatenate([pictures, np.stack([COPIES["gamma"](image) for image in pictures[:10]])])
    order = np.random.default_rng(0).permutation(len(frames))
    found = pairs(find(frames[order]))
    assert {tuple(sorted((order[i].item(), order[j].item()))) for i, j in found} == pairs(find(frames))


def test_blank_images_are_copies_of_nothing(pictures):
    noise = np.random.default_rng(0).normal(128, 1, (5, 1, SIZE, SIZE)).astype(np.uint8)
    blank = np.concatenate([np.zeros((5, 1, SIZE, SIZE), np.uint8), np.full((5, 1, SIZE, SIZE), 200, np.uint8), noise])
    assert find(blank).empty
    assert pairs(find(np.concatenate([blank, pictures[:3], jpeg(pictures[0])[None]]))) == {(15, 18)}


def test_the_same_pixels_are_paired_with_the_first(pictures):
    frames = pictures[[0, 1, 0, 2, 0]]
    frames = np.concatenate([frames, jpeg(pictures[0])[None]])
    table = find(frames)
    assert pairs(table) == {(0, 2), (0, 4), (0, 5)}
    same = table["j"] != 5
    assert (table.loc[same, ["correlation", "agreement"]] == 1).all(axis=None)
    assert (table.loc[~same, "correlation"] < 1).all()


def test_more_copies_than_neighbours_are_one_group(pictures):
    generator = np.random.default_rng(0)
    noisy = [
        curve(pictures[0], lambda grey_level: grey_level + generator.normal(0, 4, grey_level.shape)) for _ in range(40)
    ]
    table = find(np.stack([*noisy, *pictures[1:]]))
    assert len(table) <= 40 * NEIGHBOURS
    assert table["j"].max() < 40
    reached = {0}
    for _ in range(40):
        reached |= {place for pair in pairs(table) if reached & set(pair) for place in pair}
    assert reached == set(range(40))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images(pictures, count):
    table = find(pictures[:count])
    assert table.empty
    assert list(table) == ["i", "j", "correlation", "agreement", "kind"]
    if count == 2:
        assert pairs(find(np.stack([pictures[0], jpeg(pictures[0])]))) == {(0, 1)}


def test_frames_are_asked_for_in_bounded_batches(pictures):
    """Memory does not grow with the number of images."""
    frames = np.concatenate([np.tile(pictures, (40, 1, 1, 1)), np.stack([jpeg(image) for image in pictures])])
    asked = []

    def ask(chosen: np.ndarray) -> np.ndarray:
        asked.append(len(chosen))
        return frames[chosen]

    table = near_duplicates(ask, len(frames))
    assert max(asked) <= 512
    assert sum(asked) <= 2 * len(frames)
    assert len(table) == 39 * 30 + 30


def test_candidates_are_the_most_similar_images(pictures):
    """Against loops over all pairs."""
    frames = np.concatenate([pictures, np.stack([curve(image, lambda level: level * 0.7) for image in pictures])])
    _, plain, cropped, _ = duplicates._describe(lambda chosen: frames[chosen], len(frames))
    mirrored = np.stack([duplicates._frequencies(image) for image in grey(frames[..., ::-1], 128)])
    own = np.stack([duplicates._frequencies(image) for image in grey(frames, 128)])
    mirrored /= np.sqrt((own**2).mean(axis=0)) + 1e-6
    mirrored /= np.linalg.norm(mirrored, axis=1, keepdims=True)
    expected = set()
    for i in range(len(frames)):
        ranked = []
        for j in range(len(frames)):
            if i != j:
                ranked.append((max(plain[i] @ plain[j], plain[i] @ cropped[j]), i, j, 0))
                ranked.append((mirrored[i] @ plain[j], i, j, 1))
                ranked.append((-(plain[i] @ plain[j]), i, j, 2))
        best = sorted((entry for entry in ranked if entry[0] >= SIMILARITY), reverse=True)[:NEIGHBOURS]
        expected |= {(min(i, j), max(i, j), kind) for _, i, j, kind in best}
    assert set(map(tuple, duplicates._candidates(plain, cropped).tolist())) == expected
    assert len(expected) >= 30


def test_a_descriptor_in_mirrored_order_is_that_of_the_mirrored_image():
    one = grey(texture(3)[None])[0]
    here, there = picture(one), picture(np.ascontiguousarray(one[:, ::-1]))
    points = there.points * [-1, 1] + [one.shape[1] - 1, 0]
    distance = np.linalg.norm(here.points[:, None] - points[None], axis=2)
    near = np.argwhere(distance < 0.2)
    assert len(near) > 50
    differences = np.abs(here.descriptors[near[:, 0]].astype(int) - there.descriptors[near[:, 1]][:, MIRROR]).mean(
        axis=1
    )
    assert np.median(differences) < 1
    unordered = np.abs(here.descriptors[near[:, 0]].astype(int) - there.descriptors[near[:, 1]]).mean(axis=1)
    assert np.median(unordered) > 10


def test_correlation_of_aligned_images():
    first, other = grey(np.stack([texture(1), texture(2)]))
    move = np.array([[1.0, 0, 7], [0, 1, -4]])
    second = cv2.warpAffine(first, move, first.shape)
    assert aligned_correlation(first, second, move, sigma=2.5) > 0.99
    assert abs(aligned_correlation(first, other, np.eye(2, 3), sigma=2.5)) < 0.15
    assert aligned_correlation(first, 255 - first, np.eye(2, 3), sigma=2.5) < -0.99
    assert aligned_correlation(first, first, np.array([[1.0, 0, 125], [0, 1, 0]]), sigma=2.5) == 0  # hardly overlap
    flat = np.full_like(first, 9)
    assert aligned_correlation(flat, flat, np.eye(2, 3), sigma=2.5) == 0


def test_shared_markings_do_not_make_two_images_duplicates():
    """Letters burned into two films match exactly, but their surroundings show that the films differ."""
    one, other = (grey(texture(seed)[None], 128)[0] for seed in (5, 6))
    for image in (one, other):
        cv2.putText(image, "PORTABLE AP", (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, 255, 2)
    correlation, agreement = compare(picture(one), picture(other), mirrored=False)
    assert correlation * agreement < 0.3
