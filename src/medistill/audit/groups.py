"""Groups of augmented copies: images that were made from one source picture by flips, rotations, zoom and cropping.

Similar images are found by bags of visual words (tf-idf of SIFT keypoints; Sivic and Zisserman 2003); each image is
then aligned with the most similar ones. Transforms are affine, because
Augmentor, with which LC25000 was made, stretches what it rotates: its tiles are stretched by factors up to
1.7.
"""

import hashlib
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from medistill.audit.alignment import MIRROR, Picture, ReadFrames, compare, grey, picture

LIKENESS_OF_ONE_PATIENT = 0.5
"""Correlation times agreement from which two images are linked."""

NEIGHBOURS = 25
"""Images that each image is aligned with."""

_ONE_IN = 3  # pairs that were aligned between two groups must be linked for them to be one
_WORDS = 4096
_PER_WORD = 16  # keypoints, at least, so that words are seen more than once in small data sets
_BATCH = 256


def discover_groups(frames: ReadFrames, count: int) -> np.ndarray:
    """Find out which images are augmented copies of one source.

    It finds copies after flips, rotations by any angle, zoom and stretching up to 2, crops, and changes of brightness
    or contrast, as long as both show much of the source. Groups are joined by the weight of evidence, not by a
    single link: links between images with many linked partners in common come first, then the strongest; and two groups
    become one only if at least a third of the pairs that were aligned between them are linked, and at least two of them
    (one where both are single images). So one false link does not merge two sources. The order of the images does not
    matter.

    On one core an image takes about 40 ms, and the search count² / 10^7 seconds; memory is about 40 kB per image.

    Args:
        frames: frames of some images; all have one shape.
        count: number of images; `frames` is asked once for each of the positions 0 to count - 1, 256 at a time.

    Returns:
        int64 (count,): the group of each image; groups are numbered from 0 by their first image. An image without
        copies is a group of its own; so is a blank one.
    """
    with threadpool_limits(limits=1, user_api="blas"):  # products are small: its threads would wait for each other
        pictures, order = _read(frames, count)
        pairs = _candidates(pictures)
        likeness = np.array(
            [
                max(np.prod(compare(pictures[i], pictures[j], mirrored=mirrored)) for mirrored in (False, True))
                for i, j in tqdm(pairs.tolist(), desc="align", unit="pair", disable=None)
            ]
        )
        group = np.empty(count, np.int64)
        group[order] = _join(pairs, likeness, count)
    return pd.factorize(group)[0].astype(np.int64)


def _read(frames: ReadFrames, count: int) -> tuple[list[Picture], np.ndarray]:
    """All images in an order that depends on their pixels alone, and that order: int (count,) positions."""
    pictures, digests = [], []
    with tqdm(total=count, desc="keypoints", unit="image", disable=None) as bar:
        for start in range(0, count, _BATCH):
            for pixels in grey(frames(np.arange(start, min(start + _BATCH, count)))):
                pictures.append(picture(pixels))
                digests.append(hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())
                bar.update()
    order = sorted(range(count), key=digests.__getitem__)
    return [pictures[position] for position in order], np.array(order, np.int64)


def _candidates(pictures: list[Picture]) -> np.ndarray:
    """Pairs of images that have most in common: int (n, 2), the lesser first, sorted."""
    if len(pictures) <= NEIGHBOURS + 1:
        return np.array(list(combinations(range(len(pictures)), 2)), np.int64).reshape(-1, 2)
    bags = _bags(pictures)
    found = []
    with tqdm(total=len(pictures), desc="search", unit="image", disable=None) as bar:
        for start in range(0, len(pictures), _BATCH):
            alike = (bags[start : start + _BATCH] @ bags.T).toarray()
            rows = np.arange(len(alike))
            alike[rows, start + rows] = 0
            nearest = np.argpartition(-alike, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            row, place = np.nonzero(np.take_along_axis(alike, nearest, axis=1))
            found.append(np.sort(np.column_stack([start + row, nearest[row, place]]), axis=1))
            bar.update(len(alike))
    return np.unique(np.concatenate(found), axis=0)


def _bags(pictures: list[Picture]) -> sparse.csr_array:
    """Bags of visual words, weighted by tf-idf, of length 1: float32 (N, W).

    Words are descriptors drawn from the images; a word and its mirror image count as one.
    """
    ends = np.cumsum([len(each.points) for each in pictures])
    count = min(_WORDS, int(ends[-1]) // _PER_WORD)
    if not count:
        return sparse.csr_array((len(pictures), 1), dtype=np.float32)
    chosen = np.random.default_rng(0).choice(ends[-1], count, replace=False)
    owners = np.searchsorted(ends, chosen, side="right")
    drawn = [pictures[owner].descriptors[at - ends[owner]] for owner, at in zip(owners, chosen, strict=True)]
    words = np.array(drawn, np.float32)
    words = np.concatenate([words, words[:, MIRROR]])
    half_square = (words**2).sum(axis=1) / 2
    nearest = [
        (each.descriptors.astype(np.float32) @ words.T - half_square).argmax(axis=1) % count
        for each in tqdm(pictures, desc="words", unit="image", disable=None)
    ]
    word = np.concatenate(nearest)
    bags = sparse.csr_array((np.ones(len(word), np.float32), word, np.concatenate([[0], ends])), (len(pictures), count))
    bags.sum_duplicates()
    images = np.maximum(np.bincount(bags.indices, minlength=count), 1)
    bags.data = np.sqrt(bags.data) * np.log1p(len(pictures) / images).astype(np.float32)[bags.indices]
    bags.data /= np.repeat(np.sqrt((bags**2).sum(axis=1)), np.diff(bags.indptr))
    return bags


def _join(pairs: np.ndarray, likeness: np.ndarray, count: int) -> np.ndarray:
    """Groups by the evidence between them.

    Args:
        pairs: int (n, 2): images that were aligned.
        likeness: float (n,): how alike they are.
        count: number of images.

    Returns:
        int (count,): a number for each group.
    """
    group = np.arange(count)
    members = [[image] for image in range(count)]
    between: list[dict[int, tuple[int, int]]] = [{} for _ in range(count)]  # group -> other -> pairs linked, aligned
    linked = likeness >= LIKENESS_OF_ONE_PATIENT
    for (i, j), link in zip(pairs.tolist(), linked.tolist(), strict=True):
        between[i][j] = between[j][i] = (int(link), 1)
    first, second = pairs[linked].T
    partners = sparse.csr_array((np.ones(len(first), np.int32), (first, second)), (count, count))
    partners = partners + partners.T
    shared = partners[first].multiply(partners[second]).sum(axis=1)
    waiting = pairs[linked][np.lexsort((-likeness[linked], -shared))].tolist()
    joined = True
    while joined:  # pairs without enough evidence now may have it once groups have grown
        joined, asked, waiting = False, waiting, []
        for i, j in asked:
            small, large = sorted((int(group[i]), int(group[j])), key=lambda number: len(members[number]))
            if small == large:
                continue
            links, aligned = between[small][large]
            if _ONE_IN * links < aligned or links < min(2, len(members[small]) * len(members[large])):
                waiting.append([i, j])
                continue
            joined = True
            group[members[small]] = large
            members[large] += members[small]
            for other, (more_links, more_aligned) in between[small].items():
                del between[other][small]
                if other != large:
                    links, aligned = between[large].get(other, (0, 0))
                    between[large][other] = between[other][large] = (links + more_links, aligned + more_aligned)
            between[small] = {}
    return group
