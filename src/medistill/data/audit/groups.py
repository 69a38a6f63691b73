"""Groups of augmented copies: images that were made from one source picture by flips, rotations, zoom and cropping.

Keypoints (SIFT) are found again at any rotation and scale, and, with their bins in mirrored order, after a flip. What
an image has in common with all others is seen from a bag of visual words (tf-idf); each image is then matched to the
ones with most in common. Two images are linked when an affine transform carries keypoints of one to those of the other
and the images correlate once aligned. Affine, because Augmentor, with which LC25000 was made, stretches what it
rotates: its tiles are up to 1.7 times wider or higher than they were.
"""

import hashlib
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from medistill.data.audit.alignment import Frames, aligned_correlation, grey

CORRELATION = 0.55
"""Least aligned correlation of two linked images."""

INLIERS = 6
"""Least number of keypoints that one affine transform carries over."""

NEIGHBOURS = 25
"""Images that each image is matched with."""

_KEYPOINTS = 150
_WORDS = 4096
_SCALE = 512  # of descriptors of length 1, when they are kept as bytes
_RATIO = 0.8  # of distances to the nearest and the second nearest descriptor (Lowe 2004)
_TOLERANCE = 0.03  # of the side: how far from its place an inlier may lie
_ZOOM = 2.5  # the most that a transform may enlarge or shrink
_STRETCH = 2.0  # the most that it may stretch one direction against the other
_BATCH = 256

# A SIFT descriptor has 4 rows, 4 columns, and 8 directions. In a mirrored image the rows come in reverse, and so do the
# directions, but for the first.
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


@dataclass(frozen=True)
class _Image:
    """What is kept of an image: pixels uint8 (s, s), keypoints float32 (k, 2) x, y, descriptors uint8 (k, 128)."""

    pixels: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


def discover_groups(frames: Frames, count: int) -> np.ndarray:
    """Find out which images are augmented copies of one source.

    Found are copies after flips, rotations by any angle, zoom and stretching up to 2, crops, and changes of brightness
    or contrast, as long as enough of the source is seen in both. Groups are joined by the weight of evidence, not by a
    single link: the strongest links come first, and two groups become one only when at least half of the pairs that
    were matched between them are linked, and at least two (one, where both are single images). So one false link does
    not merge two sources. The order of the images does not matter.

    Memory is about 40 kB an image; time on one core about 25 ms an image, and count² / 10^7 seconds for the search.

    Args:
        frames: frames of some images; all have one shape.
        count: number of images; `frames` is asked once for each of the positions 0 to count - 1, 256 at a time.

    Returns:
        int64 (count,): the group of each image; groups are numbered from 0 by their first image. An image without
        copies is a group of its own; so is a blank one.
    """
    images, order = _read(frames, count)
    pairs = _candidates(images)
    strength = np.empty(len(pairs))
    for number, (i, j) in enumerate(tqdm(pairs.tolist(), desc="match", unit="pair", disable=None)):
        strength[number] = _link(images[i], images[j])
    group = np.empty(count, np.int64)
    group[order] = _join(pairs, strength, count)
    return pd.factorize(group)[0]


def _read(frames: Frames, count: int) -> tuple[list[_Image], np.ndarray]:
    """All images in an order that depends on their pixels alone, and that order: int (count,) positions."""
    sift = cv2.SIFT_create(nfeatures=_KEYPOINTS, contrastThreshold=0.01)
    images, digests = [], []
    with tqdm(total=count, desc="keypoints", unit="image", disable=None) as bar:
        for start in range(0, count, _BATCH):
            for pixels in grey(frames(np.arange(start, min(start + _BATCH, count)))):
                keypoints, descriptors = sift.detectAndCompute(pixels, None)
                points = np.array([keypoint.pt for keypoint in keypoints[:_KEYPOINTS]], np.float32).reshape(-1, 2)
                images.append(_Image(pixels, points, _root(descriptors)[:_KEYPOINTS]))
                digests.append(hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())
                bar.update()
    order = np.array(sorted(range(count), key=digests.__getitem__), np.int64)
    return [images[position] for position in order], order


def _root(descriptors: np.ndarray | None) -> np.ndarray:
    """Descriptors as their square roots (Arandjelovic and Zisserman 2012), times `_SCALE`: uint8 (k, 128)."""
    if descriptors is None:  # no keypoints
        return np.empty((0, 128), np.uint8)
    share = descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1)
    return np.minimum(np.rint(_SCALE * np.sqrt(share)), 255).astype(np.uint8)


def _candidates(images: list[_Image]) -> np.ndarray:
    """Pairs of images that have much in common: int (n, 2), the lesser first, sorted."""
    if len(images) <= NEIGHBOURS + 1:
        return np.array(list(combinations(range(len(images)), 2)), np.int64).reshape(-1, 2)
    bags = _bags(images)
    found = []
    with tqdm(total=len(images), desc="search", unit="image", disable=None) as bar:
        for start in range(0, len(images), _BATCH):
            alike = (bags[start : start + _BATCH] @ bags.T).toarray()
            rows = np.arange(len(alike))
            alike[rows, start + rows] = 0
            nearest = np.argpartition(-alike, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            row, place = np.nonzero(np.take_along_axis(alike, nearest, axis=1) > 0)
            found.append(np.sort(np.column_stack([start + row, nearest[row, place]]), axis=1))
            bar.update(len(alike))
    return np.unique(np.concatenate(found), axis=0)


def _bags(images: list[_Image]) -> sparse.csr_array:
    """Bags of visual words, weighted by tf-idf, of length 1: (N, W). A word and its mirror image are one word."""
    owner = np.repeat(np.arange(len(images)), [len(image.points) for image in images])
    chosen = np.random.default_rng(0).permutation(len(owner))[: min(_WORDS, len(owner) // 16)]
    ends = np.cumsum([len(image.points) for image in images])
    words = np.array(
        [images[i].descriptors[at - ends[i]] for i, at in zip(owner[chosen], chosen, strict=True)], np.float32
    ).reshape(-1, 128)
    words = np.concatenate([words, words[:, _MIRROR]])
    half_square = (words**2).sum(axis=1) / 2
    word = np.concatenate(
        [
            (image.descriptors.astype(np.float32) @ words.T - half_square).argmax(axis=1) % max(1, len(chosen))
            for image in tqdm(images, desc="words", unit="image", disable=None)
        ]
    )
    bags = sparse.csr_array((np.ones(len(word), np.float32), (owner, word)), (len(images), max(1, len(chosen))))
    bags.sum_duplicates()
    seen_in = np.bincount(bags.indices, minlength=bags.shape[1])
    bags.data = np.sqrt(bags.data) * np.log1p(len(images) / np.maximum(seen_in, 1))[bags.indices].astype(np.float32)
    length = np.sqrt((bags**2).sum(axis=1))
    bags.data /= np.repeat(length, np.diff(bags.indptr))
    return bags


def _link(first: _Image, second: _Image) -> float:
    """Aligned correlation of two images that show the same source; 0 for all others."""
    side = first.pixels.shape[0]
    matches = max((_match(first, second, mirrored) for mirrored in (False, True)), key=lambda pair: len(pair[0]))
    if len(matches[0]) < INLIERS:
        return 0.0
    transform, inliers = cv2.estimateAffine2D(*matches, ransacReprojThreshold=_TOLERANCE * side, maxIters=500)
    if transform is None or inliers.sum() < INLIERS:
        return 0.0
    large, small = np.linalg.svd(transform[:, :2])[1]
    if large > _ZOOM or small < 1 / _ZOOM or large > _STRETCH * small:
        return 0.0
    correlation = aligned_correlation(first.pixels, second.pixels, transform)
    return correlation if correlation >= CORRELATION else 0.0


def _match(first: _Image, second: _Image, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points of two images whose descriptors are each other's nearest by far: two float32 (m, 2)."""
    descriptors = second.descriptors[:, _MIRROR] if mirrored else second.descriptors
    if min(len(first.points), len(descriptors)) < 2:
        return first.points[:0], second.points[:0]
    alike = (first.descriptors.astype(np.float32) @ descriptors.astype(np.float32).T) / _SCALE**2
    row = np.arange(len(alike))
    nearest = alike.argmax(axis=1)
    mutual = alike.argmax(axis=0)[nearest] == row
    distance = 1 - alike[row, nearest]  # half the square
    alike[row, nearest] = -1
    clear = distance < _RATIO**2 * (1 - alike.max(axis=1))
    kept = mutual & clear
    return first.points[kept], second.points[nearest[kept]]


def _join(pairs: np.ndarray, strength: np.ndarray, count: int) -> np.ndarray:
    """Groups by the evidence between them.

    Args:
        pairs: int (n, 2): images that were matched.
        strength: float (n,): how strongly they are linked; 0 if they are not.
        count: number of images.

    Returns:
        int (count,): a number for each group.
    """
    group = np.arange(count)
    members = [[image] for image in range(count)]
    between: list[dict[int, tuple[int, int]]] = [{} for _ in range(count)]  # group -> other -> pairs linked, matched
    for (i, j), linked in zip(pairs.tolist(), (strength > 0).tolist(), strict=True):
        between[i][j] = between[j][i] = (int(linked), 1)
    waiting = pairs[np.argsort(-strength, kind="stable")[: np.count_nonzero(strength)]].tolist()
    joined = True
    while joined:  # what lacks evidence now may have it once its groups have grown
        joined, asked, waiting = False, waiting, []
        for i, j in asked:
            small, large = sorted((int(group[i]), int(group[j])), key=lambda number: len(members[number]))
            if small == large:
                continue
            linked, matched = between[small][large]
            if linked < max(matched / 2, min(2, len(members[small]) * len(members[large]))):
                waiting.append((i, j))
                continue
            joined = True
            group[members[small]] = large
            members[large] += members[small]
            for other, (more_linked, more_matched) in between[small].items():
                del between[other][small]
                if other != large:
                    linked, matched = between[large].get(other, (0, 0))
                    between[large][other] = between[other][large] = (linked + more_linked, matched + more_matched)
            between[small] = {}
    return group
