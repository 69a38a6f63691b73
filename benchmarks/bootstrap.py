"""How long a paired bootstrap over patients takes: `python -m benchmarks.bootstrap`, on an idle machine.

The labels and patients of ChestX-ray14's test list (25,596 images of 2,797 patients, 14 labels) and made scores of two
models. `paired_cluster_bootstrap` measures AUROC and average precision of both and all differences, in 2,000 resamples;
a loop over resamples with scikit-learn's functions does the same for a few of them, in turns, and its time is
multiplied. Writes its table into docs/intervals.md.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from benchmarks.coverage import AUROCS, LEAD, scores_of
from benchmarks.page import spread, write_between
from medistill.evaluation.comparison import paired_cluster_bootstrap
from medistill.metrics.bootstrap import RESAMPLES, draw

ROOT = Path(__file__).resolve().parents[1]


def read_labels(folder: Path) -> tuple[NDArray, NDArray]:
    """Labels (N, 14) and patients (N,), 0..G-1, of the test list."""
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv.gz")
    table = table[table["Image Index"].isin((folder / "test_list.txt").read_text(encoding="utf-8").split())]
    targets = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding").to_numpy(np.float64)
    return targets, np.unique(table["Patient ID"], return_inverse=True)[1]


def loop(targets: NDArray, both: tuple[NDArray, NDArray], groups: NDArray, columns: range) -> NDArray:
    """Macro AUROC and average precision of both models in some resamples, (columns, 4), by scikit-learn."""
    counts = draw(groups.max() + 1, RESAMPLES)
    found = []
    for column in columns:
        weights = counts[groups, column].astype(np.float64)
        figures = (roc_auc_score, average_precision_score)
        found.append([f(targets, scores, sample_weight=weights, average="macro") for scores in both for f in figures])
    return np.array(found)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("MEDISTILL_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with nih_label_files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--some", type=int, default=3, help="resamples of the loop in a round")
    arguments = parser.parse_args()
    targets, groups = read_labels(arguments.data / "nih_label_files")
    aurocs = np.linspace(*AUROCS, targets.shape[1])
    separations = np.sqrt(2) * ndtri([aurocs, aurocs - LEAD])
    both = scores_of(targets, groups, separations, np.random.default_rng(0))
    ours, theirs, lines = [], [], []
    for measured in tqdm(range(arguments.rounds), unit="round", disable=None):
        start = time.perf_counter()
        own, other, _ = paired_cluster_bootstrap(targets, *both, groups)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        looped = loop(targets, both, groups, range(measured * arguments.some, (measured + 1) * arguments.some))
        theirs.append((time.perf_counter() - start) / arguments.some * (1 + RESAMPLES))
        if measured == 0:  # the first column of the draws is the data themselves
            estimates = [one.figure(key).estimate for one in (own, other) for key in ("macro_auroc", "macro_auprc")]
            assert np.allclose(looped[0], estimates, rtol=0, atol=1e-12)
    ratios = [long / short for long, short in zip(theirs, ours, strict=True)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = [
        "| | seconds |",
        "|---|---|",
        f"| `paired_cluster_bootstrap` | {spread(ours, 1)} |",
        f"| a loop with scikit-learn | {spread(theirs, 0)} |",
    ]
    note = f"{spread(ratios, 0)} times as fast; {memory:.1f} GB of memory at most."
    write_between("docs/intervals.md", "bootstrap", "\n".join([*lines, "", note]))
    print(*lines, note, sep="\n")


if __name__ == "__main__":
    main()
