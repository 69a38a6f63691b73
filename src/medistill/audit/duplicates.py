"""Near-duplicates: images that are copies of each other after compression, scaling, a small crop, or another exposure.

Candidates come from a perceptual descriptor: the low frequencies (DCT) of a thumbnail's local contrast. A
perceptual hash reduces these to bits; unreduced, they still distinguish a cropped or equalised copy from 100,000 other
chests. Each pair of candidates is then aligned, first roughly and then by keypoints.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from scipy.fft import dctn
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from medistill.audit.alignment import Picture, ReadFrames, aligned_correlation, compare, grey, local_contrast, picture

LIKENESS_OF_DUPLICATES = 0.6
"""Correlation times agreement from which two images are near-duplicates. Chosen on half of the patients of 1,000 images
of ChestX-ray14 as the highest value that finds every required kind of copy (their lowest: 0.61; highest of two
patients: 0.10, of two films of one patient: 0.35). `benchmarks/audit.py` measures it on the other half."""

SIMILARITY = 0.6
"""Least similarity of the descriptors of candidates, a cosine."""

NEIGHBOURS = 10
"""Candidates per image, its most similar ones: it bounds how many pairs are aligned."""

KINDS = ("copy", "mirrored", "negative")

_ROUGHLY = 0.65  # least correlation of small images before keypoints are looked for; copies: 0.72 and more
_ROUGH_SIDE = 64
_THUMBNAIL = 32
_FREQUENCIES = 16
_CROP = 0.02  # of the side, at each edge: a second description, so that copies that were cropped are candidates
_BLANK = 2.0  # grey levels: an image with a lower standard deviation is blank, and no copy of any other
_BATCH = 256
_ROWS = 64  # of similarities at a time: three of them for 100,000 images take 80 MB
_KEPT = 4096  # pictures, with their keypoints: 150 MB

_Row = tuple[int, int, float, float, str]  # of the result


def near_duplicates(frames: ReadFrames, count: int) -> pd.DataFrame:
    """Find pairs of images that are copies of each other.

    It finds copies after JPEG, scaling, changes of brightness, contrast and gamma, equalised histograms, crops to 97 %
    and shifts by 2 %, also as negatives or mirrored. Copies that are turned by more than a few degrees, zoomed or
    upside down are not (see `medistill.audit.groups`); nor, below 64 px, are crops and shifts. Blank images are
    left out. Of n images with the same pixels the first is paired with each of the others, and represents them in
    all other pairs.

    Args:
        frames: frames of some images; all have one shape.
        count: number of images; `frames` is asked for positions 0 to count - 1, at most 512 at a time.

    Returns:
        One row per pair, sorted: `i` < `j`, positions of the images; `correlation` and `agreement` once aligned (see
        `medistill.audit.alignment.compare`), whose product is at least `LEAST_LIKENESS`; `kind`, one of `KINDS`: how
        the second image is a copy of the first.
    """
    positions, plain, cropped, rows = _describe(frames, count)
    candidates = _candidates(plain, cropped)
    candidates[:, :2] = positions[candidates[:, :2]]
    pictures: dict[tuple[int, bool], Picture] = {}
    with (
        threadpool_limits(1, user_api="blas"),  # products are small: its threads would wait for each other
        ThreadPoolExecutor() as pool,
        tqdm(total=len(candidates), desc="align", unit="pair", disable=None) as bar,
    ):
        for start in range(0, len(candidates), _BATCH):
            batch = candidates[start : start + _BATCH]
            rows += _confirmed(frames, batch, pictures, pool)
            if len(pictures) > _KEPT:
                pictures.clear()
            bar.update(len(batch))
    table = pd.DataFrame(rows, columns=["i", "j", "correlation", "agreement", "kind"])
    types = {"i": "int64", "j": "int64", "correlation": "float64", "agreement": "float64", "kind": "str"}
    best = table.astype(types).sort_values("correlation", ascending=False, kind="stable").drop_duplicates(["i", "j"])
    return best.sort_values(["i", "j"], ignore_index=True)


def _confirmed(
    frames: ReadFrames, candidates: np.ndarray, pictures: dict[tuple[int, bool], Picture], pool: ThreadPoolExecutor
) -> list[_Row]:
    """The candidates that are near-duplicates, as rows of the result.

    `pictures` caches pictures by position and whether they are negatives; missing ones are added.
    """
    needed, places = np.unique(candidates[:, :2], return_inverse=True)
    images = frames(needed)
    small, large = grey(images, _ROUGH_SIDE), grey(images)
    kinds = [KINDS[number] for number in candidates[:, 2]]
    pairs = [(one, other, kind) for (one, other), kind in zip(places.reshape(-1, 2).tolist(), kinds, strict=True)]
    alike = list(pool.map(lambda pair: _roughly_alike(small[pair[0]], _as(pair[2], small[pair[1]])), pairs))
    pairs = [pair for pair, passed in zip(pairs, alike, strict=True) if passed]

    keys = [[(needed[one], False), (needed[other], kind == "negative")] for one, other, kind in pairs]
    missing = list({key: None for both in keys for key in both if key not in pictures})
    place = {position: place for place, position in enumerate(needed)}
    found = pool.map(lambda key: picture(255 - large[place[key[0]]] if key[1] else large[place[key[0]]]), missing)
    pictures.update(zip(missing, found, strict=True))
    rows = []
    for (first, second), (_, _, kind) in zip(keys, pairs, strict=True):
        correlation, agreement = compare(pictures[first], pictures[second], mirrored=kind == "mirrored")
        if correlation * agreement >= LIKENESS_OF_DUPLICATES:
            rows.append((first[0], second[0], correlation, agreement, kind))
    return rows


def _roughly_alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two small grey images uint8 (s, s) correlate once the second was moved and stretched a little."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-3)
    one, other = (local_contrast(image, 3) for image in (first, second))
    start = np.eye(2, 3, dtype=np.float32)
    try:
        _, transform = cv2.findTransformECC(one, other, start, cv2.MOTION_AFFINE, stop)
    except cv2.error:  # no small step makes them more alike
        return False
    return aligned_correlation(first, second, transform, sigma=1.5) >= _ROUGHLY


def _as(kind: str, image: np.ndarray) -> np.ndarray:
    if kind == "mirrored":
        return np.ascontiguousarray(image[:, ::-1])
    return 255 - image if kind == "negative" else image


def _describe(frames: ReadFrames, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[_Row]]:
    """Descriptors of all images that are neither blank nor the same, pixel for pixel, as an earlier one.

    Returns:
        Their positions, int (n,); their descriptors and those of their inner part, float32 (n, D) of length 1; and the
        pairs of images with the same pixels, as rows of the result.
    """
    first: dict[bytes, int] = {}
    whole, inner, same = [], [], []
    with tqdm(total=count, desc="describe", unit="image", disable=None) as bar:
        for start in range(0, count, _BATCH):
            batch = frames(np.arange(start, min(start + _BATCH, count)))
            for position, frame, image in zip(range(start, start + len(batch)), batch, grey(batch), strict=True):
                if image.std() < _BLANK:
                    continue
                earlier = first.setdefault(hashlib.blake2b(frame.tobytes(), digest_size=16).digest(), position)
                if earlier < position:
                    same.append((earlier, position, 1.0, 1.0, "copy"))
                    continue
                edge = max(1, round(_CROP * image.shape[0]))
                whole.append(_frequencies(image))
                inner.append(_frequencies(image[edge:-edge, edge:-edge]))
            bar.update(len(batch))
    size = _FREQUENCIES**2 - 1
    plain, cropped = (np.array(rows, np.float32).reshape(-1, size) for rows in (whole, inner))
    # Coarse frequencies are strong in all images, so each is divided by its usual magnitude.
    usual = np.sqrt((plain**2).mean(axis=0)) + 1e-6 if len(plain) else np.ones(size, np.float32)
    for rows in (plain, cropped):
        rows /= usual
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6
    return np.array(list(first.values()), np.int64), plain, cropped, same


def _frequencies(image: np.ndarray) -> np.ndarray:
    thumbnail = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    spectrum: np.ndarray = dctn(local_contrast(thumbnail, 3), norm="ortho")
    return spectrum[:_FREQUENCIES, :_FREQUENCIES].ravel()[1:]  # the first is the mean


def _candidates(plain: np.ndarray, cropped: np.ndarray) -> np.ndarray:
    """Pairs that may be copies: int (n, 3), two rows of the descriptors, the lesser first, and the number of a kind."""
    mirror = np.tile([1, -1], _FREQUENCIES**2 // 2)[1:].astype(np.float32)  # odd frequencies in x change their sign
    found = [np.empty((0, 3), np.int64)]
    with tqdm(total=len(plain), desc="search", unit="image", disable=None) as bar:
        for start in range(0, len(plain), _ROWS):
            some = plain[start : start + _ROWS]
            alike = some @ plain.T
            negative = -alike
            np.maximum(alike, some @ cropped.T, out=alike)
            of_kinds = []
            for kind, similarity in enumerate((alike, (some * mirror) @ plain.T, negative)):
                similarity[np.arange(len(some)), np.arange(start, start + len(some))] = 0
                row, other = np.nonzero(similarity >= SIMILARITY)
                of_kinds.append(np.column_stack([row, other, np.full(len(row), kind), -similarity[row, other]]))
            hits = np.concatenate(of_kinds)
            hits = hits[np.lexsort((hits[:, 1], hits[:, 3], hits[:, 0]))]
            _, begins, of = np.unique(hits[:, 0], return_index=True, return_inverse=True)
            hits = hits[np.arange(len(hits)) - begins[of] < NEIGHBOURS][:, :3].astype(np.int64)
            hits[:, 0] += start
            hits[:, :2].sort(axis=1)
            found.append(hits)
            bar.update(len(some))
    return np.unique(np.concatenate(found), axis=0)
