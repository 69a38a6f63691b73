"""Distilled students against their baselines over three seeds, on the phantom and on real X-rays; see docs/results.md.

    python -m benchmarks.results --xrays ROOT     # or `make results` for the phantom alone

Trains the missing models in .cache/results/, keeps their outcomes in benchmarks/outcomes/, and writes the tables of all
complete sets. A killed run is resumed by running it again; a model is trained again only if its outcome is deleted.
"""

import argparse
import contextlib
import itertools
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks import sample, tables
from benchmarks.outcomes import Outcome, write_outcomes
from benchmarks.page import write_between
from benchmarks.plans import ORDER, PLANS, Job, Order, locate, phases
from benchmarks.sample import BOTH
from benchmarks.scores import Results, kept_of, outcome_of, results_of
from benchmarks.study import STUDENTS
from pipeline.stage import keep_freed_memory

Blocks = dict[tuple[str, str], str]
"""Text by page and name of the markers between which it stands."""


def _train(job: Job, xrays: Path | None) -> tuple[Job, float]:
    """Train a job in a process of its own; return it and the seconds it took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    start = perf_counter()
    locate(job, xrays, train=True)
    return job, perf_counter() - start


def to_train(order: Order, xrays: Path | None) -> list[list[Job]]:
    """The jobs of each phase without a known outcome, each model once, and their teachers if these are missing."""
    every = list(phases(order))
    models = {job: locate(job, xrays) for phase in every for job in phase}
    unknown = {job: model for job, model in models.items() if outcome_of(job, model, xrays) is None}
    asked = {teacher.folder for model in unknown.values() for teacher in model.teachers if not teacher.done}
    found: set[Path] = set()
    left: list[list[Job]] = []
    for phase in every:
        left.append([])
        for job in phase:
            folder = models[job].folder
            if folder not in found and (job in unknown or folder in asked):
                found.add(folder)
                left[-1].append(job)
    return left


def train_all(order: Order, xrays: Path | None, workers: int) -> None:
    """Train the missing models; after each, print the time that is left."""
    left = to_train(order, xrays)
    times: dict[tuple[str, str], list[float]] = {}
    begun, total = perf_counter(), sum(map(len, left))
    print(f"{total} models to train", flush=True)
    with contextlib.ExitStack() as stack:
        pool = (
            stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))) if workers > 1 else None
        )
        for number, phase in enumerate(left):
            for job, seconds in (pool.map if pool else map)(partial(_train, xrays=xrays), tuple(phase)):
                times.setdefault((job.data, job.network), []).append(seconds)
                phase.remove(job)
                rest = sum(_expected(other, times) for others in left[number:] for other in others) / workers
                print(
                    f"{(perf_counter() - begun) / 60:6.1f} min  {job.data} fold {job.fold} {job.network} "
                    f"{job.recipe or 'teacher'} seed {job.seed}: {seconds:.0f} s; "
                    f"{sum(map(len, left))} left, about {rest / 60:.0f} min",
                    flush=True,
                )


def _expected(job: Job, times: dict[tuple[str, str], list[float]]) -> float:
    """Seconds that a job will take: the mean of similar jobs, or if there are none of all, in proportion to epochs."""
    if (job.data, job.network) in times:
        return float(np.mean(times[job.data, job.network]))
    pace = [second / PLANS[data].epochs[network] for (data, network), seconds in times.items() for second in seconds]
    return float(np.mean(pace)) * PLANS[job.data].epochs[job.network]


def keep_outcomes(order: Order, xrays: Path | None) -> None:
    """Keep the outcomes of the models with the current settings."""
    known: dict[Path, list[tuple[int, int, Outcome]]] = {}
    for job in itertools.chain.from_iterable(phases(order)):
        if outcome := outcome_of(job, locate(job, xrays), xrays):
            file, _ = kept_of(job.data, job.network, job.recipe)
            known.setdefault(file, []).append((job.seed, job.fold, outcome))
    for file, outcomes in known.items():
        write_outcomes(file, outcomes)


def pages(results: dict[str, Results], xrays: Path | None) -> Blocks:
    """The texts for the documentation: a table per data set and, once both are complete, what they show."""
    blocks = {("docs/results.md", data): text for data, own in results.items() if (text := tables.page(own))}
    every = [(own, student) for own in results.values() for student in STUDENTS]
    if len(results) < 2 or not all(student in own.students and BOTH in own.taught(student) for own, student in every):
        return blocks
    divided = sample.Sample.of(results["xrays"])
    if divided is None:
        return blocks
    what = f"{sample.composition(divided)} {sample.one_question(divided)}"
    gained, says = sample.summary(divided, results["phantom"])
    warned = sample.warnings(xrays)
    blocks["docs/results.md", "sample"] = "\n\n".join([f"{what} {sample.positives(divided)}", says, gained, warned])
    blocks["docs/results.md", "halves"] = sample.halves(divided)
    blocks["README.md", "measured"] = "\n\n".join([what, says, gained])
    blocks["README.md", "results"] = "\n\n".join([warned, tables.short_page(results["xrays"])])
    return blocks


def main() -> None:
    """Train the missing models and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--xrays", type=Path, help="folder of the X-rays, in the layout of ChestX-ray14")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--no-training", action="store_true", help="write the tables of what is there")
    arguments = parser.parse_args()
    order = [item for item in ORDER if item[0] != "xrays" or arguments.xrays]
    try:
        if not arguments.no_training:
            train_all(order, arguments.xrays, arguments.workers)
    finally:  # an interrupted run keeps the outcomes it has
        keep_outcomes(order, arguments.xrays)
    kept_of.cache_clear()
    names = dict.fromkeys(data for data, *_ in order)
    blocks = pages({data: results_of(data, arguments.xrays) for data in names}, arguments.xrays)
    for data in names:
        if ("docs/results.md", data) not in blocks:
            print(f"{data}: nothing is trained with these settings and data; its table stays as it is", file=sys.stderr)
    for (page, name), text in blocks.items():
        write_between(page, name, text)
        print(f"{page}, {name}:\n\n{text}\n")


if __name__ == "__main__":
    main()
