"""What was tried on validation before the settings of `benchmarks.results` were fixed, failures included.

    python -m benchmarks.attempts --data FOLDER --workers 2

Trains every attempt of `ATTEMPTS` that has not been made yet, keeps its figures in benchmarks/outcomes/attempts.jsonl,
and writes all of them into docs/results.md. Only validation splits are used: the phantom's own, and for the X-rays that
of the first fold.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.outcomes import FOLDER
from benchmarks.page import write_between
from benchmarks.sets import SETS
from benchmarks.study import (
    BCE,
    DENSENET,
    EEEA,
    LITE0,
    LITE2,
    Setting,
    network_of,
    open_phantom,
    read_params,
)
from medistill.checksums import TRAIN_AGAIN
from medistill.distillation.settings import Recipe
from medistill.layout import ModelFolder
from medistill.records.models import TrainingMetrics
from pipeline.stage import keep_freed_memory

FILE = FOLDER / "attempts.jsonl"
SEED = 0


@dataclass(frozen=True)
class Attempt:
    """One training, judged on validation.

    Attributes:
        data: `phantom` or `xrays`.
        network: a teacher or student of params.yaml.
        size: of the frames, in pixels.
        epochs, rate, batch: of its training.
        terms: losses as `name weight temperature`; none for teachers and baselines: they use binary cross-entropy.
        taught_by: epochs and learning rate of each teacher's training, by name.
        views: number of views that the teachers answer; 0: as many as epochs.
        combine: how several teachers are combined.
        unlabelled: number of unlabelled images of the phantom that are added to the training split.
    """

    data: str
    network: str
    size: int
    epochs: int
    rate: float
    batch: int = 16
    terms: tuple[str, ...] = ()
    taught_by: tuple[tuple[str, int, float], ...] = ()
    views: int = 0
    combine: str = "mean"
    unlabelled: int = 0


KD = (f"{BCE} 0.1", "sigmoid_kd 0.9 1")
KD_HALF = (f"{BCE} 0.5", "sigmoid_kd 0.5 1")
KD_4 = (f"{BCE} 0.1", "sigmoid_kd 0.9 4")
SYSTEM_A = ("focal_bce 0.5", "mse_kd 0.5 2")
HINTS = (*KD, "feature_mse 1")
CAM, CAM_4 = ((*terms, "cam_kd 0.1") for terms in (KD, KD_4))
BY_6, BY_12, BY_24 = (((LITE2, epochs, 1e-3),) for epochs in (6, 12, 24))

ATTEMPTS = [
    Attempt("xrays", LITE2, 64, 6, 1e-3),
    Attempt("xrays", LITE2, 96, 6, 1e-3),
    Attempt("xrays", LITE0, 64, 6, 1e-3),
    Attempt("xrays", LITE0, 64, 6, 1e-3, terms=KD, taught_by=BY_6),
    Attempt("phantom", LITE2, 64, 6, 1e-3),
    Attempt("phantom", LITE2, 96, 6, 1e-3),
    Attempt("xrays", LITE0, 96, 4, 1e-3),
    Attempt("xrays", LITE0, 96, 4, 1e-3, terms=KD, taught_by=BY_6),
    Attempt("phantom", EEEA, 96, 24, 2e-3, terms=KD, taught_by=BY_6),
    Attempt("phantom", EEEA, 96, 24, 2e-3),
    Attempt("phantom", LITE0, 96, 4, 1e-3),
    Attempt("phantom", LITE0, 96, 4, 1e-3, terms=KD, taught_by=BY_6),
    Attempt("phantom", EEEA, 96, 12, 2e-3, terms=KD_4, taught_by=BY_6, views=24),
    Attempt("phantom", EEEA, 96, 12, 2e-3, terms=KD, taught_by=BY_6, views=24),
    Attempt("xrays", EEEA, 96, 8, 2e-3),
    Attempt("xrays", EEEA, 96, 8, 2e-3, terms=KD_4, taught_by=BY_6),
    Attempt("xrays", LITE0, 96, 4, 1e-3, terms=KD_4, taught_by=BY_6),
    Attempt("xrays", LITE2, 96, 6, 3e-4),
    # Why was Lite0, in the phantom's first table, worse with a temperature of 4 than without a teacher?
    Attempt("phantom", LITE0, 96, 6, 1e-3),
    Attempt("phantom", LITE0, 96, 6, 1e-3, terms=KD_4, taught_by=BY_6),
    Attempt("phantom", LITE0, 96, 6, 1e-3, terms=KD_HALF, taught_by=BY_6),
    Attempt("phantom", LITE0, 96, 12, 1e-3),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD_HALF, taught_by=BY_6),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD, taught_by=BY_6),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD, taught_by=BY_12),
    # Teachers trained to convergence, students trained longer, and images without a label.
    Attempt("phantom", LITE2, 96, 12, 1e-3),
    Attempt("phantom", LITE2, 96, 24, 1e-3),
    Attempt("phantom", DENSENET, 96, 24, 1e-3),
    Attempt("phantom", EEEA, 96, 48, 2e-3, terms=KD, taught_by=BY_12),
    Attempt("phantom", EEEA, 96, 48, 2e-3),
    Attempt("phantom", EEEA, 96, 24, 2e-3, terms=KD, taught_by=BY_12, views=8, unlabelled=2000),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD, taught_by=BY_12, views=8, unlabelled=2000),
    Attempt("phantom", EEEA, 96, 48, 2e-3, terms=HINTS, taught_by=BY_12),
    Attempt("phantom", LITE0, 96, 24, 1e-3),
    # Images without a label, with as many steps as the baseline: 11 epochs of 2,593 images are 48 of 593.
    Attempt("phantom", EEEA, 96, 11, 2e-3, terms=KD, taught_by=BY_24, unlabelled=2000),
    Attempt("phantom", LITE0, 96, 6, 1e-3, terms=KD, taught_by=BY_24, unlabelled=2000),
    Attempt("phantom", LITE0, 96, 2, 1e-3, terms=KD, taught_by=BY_24, unlabelled=6000),
    Attempt("phantom", EEEA, 96, 4, 2e-3, terms=KD, taught_by=BY_24, unlabelled=6000),
    # Twice the steps, which EEEA-Net-C2 needs: 22 epochs of 2,593 images, or 9 of 6,593, are about 96 of 593.
    Attempt("phantom", EEEA, 96, 9, 2e-3, terms=KD, taught_by=BY_24, views=4, unlabelled=6000),
    Attempt("phantom", EEEA, 96, 22, 2e-3, terms=KD, taught_by=BY_24, views=8, unlabelled=2000),
    # After the tables: views, temperature and terms, each varied alone, on one machine.
    *(Attempt("xrays", EEEA, 96, 8, 2e-3, terms=KD_4, taught_by=BY_6, views=views) for views in (1, 2, 4, 8)),
    *(Attempt("xrays", EEEA, 96, 8, 2e-3, terms=terms, taught_by=BY_6, views=4) for terms in (KD, SYSTEM_A, CAM_4)),
    *(Attempt("xrays", LITE0, 96, 4, 1e-3, terms=KD_4, taught_by=BY_6, views=views) for views in (1, 2)),
    *(Attempt("phantom", LITE0, 96, 6, 1e-3, terms=terms, taught_by=BY_6, views=6) for terms in (KD, KD_4)),
    *(Attempt("phantom", EEEA, 96, 24, 2e-3, terms=KD, taught_by=BY_24, views=views) for views in (1, 8)),
    *(Attempt("phantom", EEEA, 96, 24, 2e-3, terms=terms, taught_by=BY_24, views=8) for terms in (KD_4, CAM)),
    # Is EEEA-Net-C2 held back by too few steps? Twice as many as in the tables, with a teacher and without.
    Attempt("phantom", EEEA, 96, 192, 2e-3),
    Attempt("phantom", EEEA, 96, 44, 2e-3, terms=KD_4, taught_by=BY_24, views=8, unlabelled=2000),
]


def recipe_of(attempt: Attempt) -> Recipe:
    """The recipe of an attempt."""
    terms = []
    for text in attempt.terms:
        loss, weight, *rest = text.split()
        terms.append({"loss": loss, "weight": float(weight)} | ({"temperature": float(rest[0])} if rest else {}))
    return Recipe(
        teachers=[name for name, *_ in attempt.taught_by],
        terms=terms,
        combine=attempt.combine,
        unlabelled=attempt.unlabelled > 0,
    )


def make(attempt: Attempt, root: Path | None) -> dict:
    """Train an attempt; its validation macro AUROC, best epoch, and seconds."""
    torch.set_num_threads(1)
    keep_freed_memory()
    params = read_params(
        training={"batch_size": attempt.batch},
        teach={
            "views": attempt.views or attempt.epochs,
            "answers": sorted(recipe_of(attempt).needs),
        },
    )

    def setting(unlabelled: int) -> Setting:
        if attempt.data == "phantom":
            return Setting("phantom/own", open_phantom(attempt.size, unlabelled), params)
        return Setting("xrays/0", SETS["xrays"].divided(root or Path(), attempt.size, 0), params)

    labelled = setting(0)
    own = network_of(params, attempt.network, attempt.epochs, attempt.rate)
    if attempt.network in params.teachers:
        trained = labelled.train_teacher(attempt.network, own, SEED)
    else:
        teachers = [
            labelled.train_teacher(name, network_of(params, name, *how), SEED) for name, *how in attempt.taught_by
        ]
        student = setting(attempt.unlabelled)
        trained = student.train_student(attempt.network, own, recipe_of(attempt), SEED, teachers)
    return TrainingMetrics.read(ModelFolder(trained.folder).metrics, TRAIN_AGAIN).to_json()


def table(rows: list[dict]) -> str:
    """All attempts as Markdown, in the order in which they were made."""
    lines = [
        "| data | network | px | epochs | learning rate | batch | taught by | losses | views | unlabelled images "
        "| best epoch | val macro AUROC | s |",
        "|---|---|---:|---:|---:|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        teachers = ", ".join(f"{name} ({epochs} epochs)" for name, epochs, _ in row["taught_by"])
        losses = " + ".join(row["terms"])
        lines.append(
            f"| {row['data']} | {row['network']} | {row['size']} | {row['epochs']} | {row['rate']:g} | {row['batch']} "
            f"| {teachers} | {losses or BCE} | {row['views'] or row['epochs']} | {row.get('unlabelled', 0) or ''} "
            f"| {row['best_epoch']} | {row['val_macro_auroc']:.3f} | {row['train_seconds']:.0f} |"
        )
    return "\n".join(lines)


def read_rows() -> list[dict]:
    """All attempts that have been made, with their results."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def _asked(row: dict) -> dict:
    """The fields of an attempt; a row written before a field was added has its default."""
    return {field.name: row.get(field.name, field.default) for field in fields(Attempt)}


def main() -> None:
    """Make the attempts that have not been made, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the real data sets, a folder each")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    arguments = parser.parse_args()
    rows = read_rows()
    made = {json.dumps(_asked(row)) for row in rows}
    left = [
        attempt
        for attempt in ATTEMPTS
        if json.dumps(asdict(attempt)) not in made and SETS[attempt.data].here(arguments.data)
    ]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for attempt, metrics in zip(left, pool.map(partial(make, root=arguments.data), left), strict=True):
            rows.append(asdict(attempt) | metrics)
            with FILE.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            write_between("docs/results.md", "attempts", table(rows))
    write_between("docs/results.md", "attempts", table(rows))


if __name__ == "__main__":
    main()
