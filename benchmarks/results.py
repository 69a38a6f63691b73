"""Distilled students against their baselines, on the phantom and on real images; see docs/results.md.

    python -m benchmarks.results --data FOLDER           # or `make results` for the phantom alone
    python -m benchmarks.results --data FOLDER --plan    # only print what is left to train, and for how long

Trains the missing models in .cache/results/, keeps their outcomes in benchmarks/outcomes/, and writes the tables of all
complete sets. A killed run is resumed by running it again; a model is trained again only if its outcome is deleted.
"""

import argparse
import contextlib
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import torch

from benchmarks import claims, sample, tables
from benchmarks.hours import Pace, overview
from benchmarks.outcomes import write_outcomes
from benchmarks.page import write_between
from benchmarks.plans import OLDER, ORDER, PLANS, Job, Order, locate, phases
from benchmarks.sample import BOTH
from benchmarks.scores import Results, kept_of, outcome_of, results_of
from benchmarks.sets import NIH, SETS
from benchmarks.study import WORK, Trained
from pipeline.stage import keep_freed_memory

Blocks = dict[tuple[str, str], str]
"""Text by page and name of the markers between which it stands."""


def _train(job: Job, root: Path | None) -> tuple[Job, float]:
    """Train a job in a process of its own; return it and the seconds it took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    start = perf_counter()
    locate(job, root, train=True)
    return job, perf_counter() - start


def to_train(order: Order, root: Path | None) -> list[list[Job]]:
    """The jobs of each phase without a known outcome, each model once, and their teachers if these are missing."""
    every = list(phases(order))
    models = {job: locate(job, root) for phase in every for job in phase}
    unknown = {job: model for job, model in models.items() if outcome_of(job, model, root) is None}
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
    return [phase for phase in left if phase]


def train_all(order: Order, root: Path | None, workers: int) -> None:
    """Train the missing models; keep each one's outcome, and print the time that is left."""
    left = to_train(order, root)
    pace = Pace.of(root)
    print(overview(left, pace), flush=True)
    begun = perf_counter()
    with contextlib.ExitStack() as stack:
        pool = (
            stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))) if workers > 1 else None
        )
        for phase in left:
            for job, seconds in (pool.map if pool else map)(partial(_train, root=root), tuple(phase)):
                phase.remove(job)
                keep_outcomes(job, root)
                forget(job, locate(job, root))
                rest = sum(pace.seconds(other) for others in left for other in others) / workers
                print(
                    f"{(perf_counter() - begun) / 60:6.1f} min  {job.data} fold {job.fold} {job.network} "
                    f"{job.recipe or 'teacher'} seed {job.seed}: {seconds:.0f} s; "
                    f"{sum(map(len, left))} left, about {rest / 3600:.1f} h",
                    flush=True,
                )


def keep_outcomes(job: Job, root: Path | None) -> None:
    """Keep the outcomes of all seeds and folds of a job's row with the current settings."""
    plan = PLANS[job.data]
    every = [Job(job.data, fold, job.network, job.recipe, seed) for seed in plan.seeds for fold in range(plan.folds)]
    found = {other: outcome_of(other, locate(other, root), root) for other in every}
    file, _ = kept_of(job.data, job.network, job.recipe)
    write_outcomes(file, [(other.seed, other.fold, outcome) for other, outcome in found.items() if outcome])
    kept_of.cache_clear()


def forget(job: Job, model: Trained) -> None:
    """Delete what nobody reads any more: copies for an interrupted training, and students that do not teach."""
    for copies in (WORK / "checkpoints").glob(f"*/{job.data}/*/{model.folder.name}"):
        shutil.rmtree(copies)
    rows = PLANS[job.data].students.get(job.network, {})
    teaches = job.recipe is None or (job.recipe == "baseline" and any(row.control == "self" for row in rows.values()))
    if not teaches and job.data not in OLDER:  # there a model may be that of two rows
        shutil.rmtree(model.folder, ignore_errors=True)


def pages(results: dict[str, Results], root: Path | None) -> Blocks:
    """The texts for the documentation: a table per data set and, once the older ones are complete, what they show."""
    texts = {data: (tables if data in OLDER else claims).page(own) for data, own in results.items()}
    blocks = {("docs/results.md", data): text for data, text in texts.items() if text}
    lines = {data: claims.short(own) for data, own in results.items() if data not in OLDER}
    blocks |= {("README.md", data): text for data, text in lines.items() if text}
    every = [(results[data], student) for data in OLDER if data in results for student in PLANS[data].students]
    if not all(data in results for data in OLDER) or not all(
        student in own.students and BOTH in own.taught(student) for own, student in every
    ):
        return blocks
    divided = sample.Sample.of(results["xrays"])
    if divided is None:
        return blocks
    what = f"{sample.composition(divided)} {sample.one_question(divided)}"
    gained, says = sample.summary(divided, results["phantom"])
    warned = sample.warnings(root / NIH[0])
    blocks["docs/results.md", "sample"] = "\n\n".join([f"{what} {sample.positives(divided)}", says, gained, warned])
    blocks["docs/results.md", "halves"] = sample.halves(divided)
    blocks["README.md", "measured"] = "\n\n".join([what, says, gained])
    blocks["README.md", "results"] = "\n\n".join([warned, tables.short_page(results["xrays"])])
    return blocks


def main() -> None:
    """Train the missing models and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the real data sets, a folder each")
    parser.add_argument("--sets", nargs="+", choices=PLANS, default=list(PLANS), help="only these; default: all")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--plan", action="store_true", help="print what is left to train, and for how long")
    parser.add_argument("--no-training", action="store_true", help="write the tables of what is there")
    arguments = parser.parse_args()
    names = [data for data in arguments.sets if SETS[data].here(arguments.data)]
    order = [item for item in ORDER if item[0] in names]
    if arguments.plan:
        print(overview(to_train(order, arguments.data), Pace.of(arguments.data)))
        return
    if not arguments.no_training:
        train_all(order, arguments.data, arguments.workers)
    blocks = pages({data: results_of(data, arguments.data) for data in names}, arguments.data)
    for data in names:
        if ("docs/results.md", data) not in blocks:
            print(f"{data}: not all rows are trained with these settings and data; its table stays", file=sys.stderr)
    for (page, name), text in blocks.items():
        write_between(page, name, text)
        print(f"{page}, {name}:\n\n{text}\n")


if __name__ == "__main__":
    main()
