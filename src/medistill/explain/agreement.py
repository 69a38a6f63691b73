"""Whether a student looks where its teacher looks."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from medistill.metrics.means import mean_interval
from medistill.records.explain import Agreement, Alike

TOP = 0.2
"""Share of the pixels whose overlap is measured."""

Maps = NDArray[np.float32]
Numbers = NDArray[np.float64]


def agreement(student: Maps, teacher: Maps, groups: NDArray[np.generic]) -> Agreement:
    """How alike a student's and a teacher's maps of the same findings are, in the mean over findings.

    By Pearson's correlation over pixels, which leads; by that of the ranks (Spearman's), the cosine, and the IoU of the
    strongest fifth. Any two maps of chests are alike, so the mean with the teacher's maps of all findings of other
    groups stands beside each.

    Args:
        student, teacher: unnormalised maps (N, S, S).
        groups: (N,); the unit of the bootstrap.
    """
    own, other = (maps.reshape(len(maps), -1) for maps in (student, teacher))
    known = ~np.isnan(_centred(own)[:, 0] + _centred(other)[:, 0])
    own, other, theirs = own[known], other[known], groups[known]

    def alike(same: Numbers, shuffled: Numbers) -> Alike:
        every = np.full((2, len(known)), np.nan)
        every[:, known] = same, shuffled
        return Alike(
            value=mean_interval(every[0], groups),
            shuffled=mean_interval(every[1], groups).estimate,
            difference=mean_interval(every[0] - every[1], groups, difference=True),
        )

    pearson = alike(*_products(_centred(own), _centred(other), theirs))
    return Agreement(
        estimate=pearson.value.estimate,
        lower=pearson.value.lower,
        upper=pearson.value.upper,
        findings=int(known.sum()),
        flat_maps=int((~known).sum()),
        shuffled=pearson.shuffled,
        difference_shuffled=pearson.difference,
        cosine=alike(*_products(_of_length_one(own), _of_length_one(other), theirs)),
        spearman=alike(*_products(_centred(_ranks(own)), _centred(_ranks(other)), theirs)),
        top_fifth=alike(*_overlaps(_strongest(own), _strongest(other), theirs)),
    )


def _centred(vectors: Maps) -> Maps:
    """Maps (N, P) of mean 0 and length 1, whose product is the correlation; NaN where flat."""
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    lengths[lengths <= 1e-6 * np.abs(vectors).max(axis=1, keepdims=True, initial=0)] = np.nan
    result: Maps = centred / lengths
    return result


def _ranks(vectors: Maps) -> Maps:
    """The rank of each pixel within its map (N, P), equal ones by their mean."""
    ranks: Maps = rankdata(vectors, axis=1).astype(np.float32)
    return ranks


def _of_length_one(vectors: Maps) -> Maps:
    """Maps (N, P) whose product is the cosine; all-zero ones stay so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Maps = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return result


def _strongest(vectors: Maps) -> Maps:
    """1 in the strongest fifth of the pixels of each map (N, P), else 0; pixels without any evidence are not in it."""
    last = vectors.shape[1] - max(1, round(TOP * vectors.shape[1]))
    least = np.partition(vectors, last, axis=1)[:, last, None]
    top: Maps = ((vectors >= least) & (vectors > vectors.min(axis=1, keepdims=True))).astype(np.float32)
    return top


def _overlaps(own: Maps, other: Maps, groups: NDArray[np.generic]) -> tuple[Numbers, Numbers]:
    """IoU of sets (N, P) of 1 and 0, none of them empty: of each pair, and the means as `_products` has them."""
    both = (own @ other.T).astype(np.float64)
    pairs = both / (own.sum(axis=1)[:, None] + other.sum(axis=1)[None] - both)
    apart = groups[:, None] != groups
    count = apart.sum(axis=1)
    return np.diag(pairs), np.where(count, (pairs * apart).sum(axis=1) / np.maximum(count, 1), np.nan)


def _products(own: Maps, other: Maps, groups: NDArray[np.generic]) -> tuple[Numbers, Numbers]:
    """The product of each row of `own` with its row of `other`, and its mean with the rows of all other groups.

    Both (N,), the second NaN where there is no other group.
    """
    shuffled = np.full(len(own), np.nan)
    every = other.sum(axis=0, dtype=np.float64)
    for group in np.unique(groups):
        inside = groups == group
        if outside := int((~inside).sum()):
            shuffled[inside] = own[inside] @ (every - other[inside].sum(axis=0)) / outside
    return (own * other).sum(axis=1, dtype=np.float64), shuffled
