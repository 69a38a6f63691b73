"""How often intervals over patients and seeds hold the truth: `python -m benchmarks.seed_coverage`.

Patients are drawn with some images each; two recipes are trained from several seeds. A seed's true AUROC is drawn, and
each model has errors of its own about each image. For each data set it is noted whether each interval of the mean
difference contains the true one, that of infinitely many seeds and patients. Writes its table into docs/intervals.md.
"""

import argparse
import itertools
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from scipy import special
from tqdm import tqdm

from benchmarks.crossed import cross
from benchmarks.page import write_between
from benchmarks.scores import with_seeds
from benchmarks.tables import line
from medistill.metrics.bootstrap import draw
from medistill.metrics.intervals import summarise
from medistill.metrics.ranking import measure_ranking

RESAMPLES, BLOCK = 1000, 25
SEEDS, PATIENTS, SPREADS = (3, 5, 10), (150, 600), (0.006, 0.02)
"""Numbers of seeds and patients; standard deviation of the true AUROC over seeds."""
SEPARATIONS = (1.2, 1.1)
"""Distance of positives and negatives in standard deviations of a score, of both recipes."""
SHARED = 0.7
"""Share of a score's variance, given the label, that all models have in common."""
KINDS = {
    "patients alone": lambda by_seed, groups: _bounds(by_seed),
    "patients and seeds, Satterthwaite": with_seeds,
    "crossed, percentile": lambda by_seed, groups: tuple(
        np.quantile(cross(by_seed, groups).values[1:], [0.025, 0.975])
    ),
    "**crossed, expanded**": lambda by_seed, groups: cross(by_seed, groups).bounds,
}


def _bounds(by_seed: np.ndarray) -> tuple[float | None, float | None]:
    figure = summarise(by_seed.mean(axis=0), difference=True)
    return figure.lower, figure.upper


def differences(patients: int, seeds: int, spread: float, generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """The difference in AUROC by seed, (S, 1 + R), and the true one."""
    groups = np.repeat(np.arange(patients), 1 + generator.poisson(0.7, patients))
    targets = (generator.random(patients)[groups] < 0.3).astype(float)
    shared = np.sqrt(0.4) * generator.normal(size=patients)[groups] + np.sqrt(0.6) * generator.normal(size=len(groups))
    tau = spread * np.sqrt(2) / _density(np.mean(SEPARATIONS) / np.sqrt(2))
    counts = draw(patients, RESAMPLES, int(generator.integers(2**31)))
    by_recipe = []
    for separation in SEPARATIONS:
        apart = separation + tau * generator.normal(size=seeds)
        noise = generator.normal(size=(len(groups), seeds))
        scores = np.sqrt(SHARED) * shared[:, None] + np.sqrt(1 - SHARED) * noise + apart * targets[:, None]
        by_recipe.append(measure_ranking(np.repeat(targets[:, None], seeds, 1), scores, groups, counts)[0].T)
    true = special.ndtr(np.array(SEPARATIONS) / np.sqrt(2 + tau**2))
    return by_recipe[0] - by_recipe[1], float(true[0] - true[1])


def _density(x: float) -> float:
    return float(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def block(column: tuple[int, int, float], start: int) -> list[list[bool]]:
    """For each data set, whether each interval of `KINDS` contains the true difference."""
    found = []
    for run in range(start, start + BLOCK):
        generator = np.random.default_rng([run, column[0], column[1], round(1000 * column[2])])
        by_seed, true = differences(*column, generator)
        bounds = [kind(by_seed, column[0]) for kind in KINDS.values()]
        found.append([lower <= true <= upper for lower, upper in bounds])
    return found


def main() -> None:
    """Simulate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="data sets of each column")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    columns = list(itertools.product(PATIENTS, SEEDS, SPREADS))
    starts = range(0, arguments.runs, BLOCK)
    held = {}
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        jobs = {column: [pool.submit(partial(block, column), start) for start in starts] for column in columns}
        for column, futures in tqdm(jobs.items(), unit="column", disable=None):
            held[column] = np.concatenate([future.result() for future in futures]).mean(axis=0)
    lines = [
        f"| patients | seeds | true spread over seeds | {' | '.join(KINDS)} |",
        f"|---:|---:|---:|{'---:|' * len(KINDS)}",
    ]
    for (patients, seeds, spread), shares in held.items():
        lines.append(line([str(patients), str(seeds), f"{spread}", *(f"{100 * share:.1f}" for share in shares)]))
    lines.append(f"\n{len(starts) * BLOCK:,} data sets a row, {RESAMPLES:,} resamples each.")
    write_between("docs/intervals.md", "seeds", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
