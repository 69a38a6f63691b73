"""What was tried on validation before the settings of `benchmarks.results` were fixed, failures included.

    python -m benchmarks.attempts --xrays ROOT

Trains every attempt of `ATTEMPTS` that has not been made yet, and writes all of them into docs/results.md. Only
validation is looked at: the phantom's, and of the X-rays the inner validation side of the first fold.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.page import write_between
from benchmarks.study import WORK, Setting, fold_of, open_phantom, open_xrays, read_params
from medistill.config import Network, Recipe
from medistill.files import read_json

FILE = WORK / "attempts.jsonl"
SEED = 0
BCE = "binary_cross_entropy"


@dataclass(frozen=True)
class Attempt:
    """One training, judged on validation.

    Attributes:
        data: `phantom` or `xrays`.
        network: a teacher or student of params.yaml.
        size: of the frames, in pixels.
        epochs, rate, batch: of its training.
        terms: losses as `name weight temperature`; none for teachers and baselines, which have binary cross-entropy.
        taught_by: epochs and learning rate of each teacher's training, by name.
        views: that are taught; 0: as many as epochs.
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


LITE2, DENSENET, LITE0, EEEA = "efficientnet_lite2", "densenet", "tf_efficientnet_lite0", "eeea_net_c2"
KD = (f"{BCE} 0.1", "sigmoid_kd 0.9 1")
KD_HALF = (f"{BCE} 0.5", "sigmoid_kd 0.5 1")
KD_4 = (f"{BCE} 0.1", "sigmoid_kd 0.9 4")

ATTEMPTS = [
    Attempt("xrays", LITE2, 64, 6, 1e-3),
    Attempt("xrays", LITE2, 96, 6, 1e-3),
    Attempt("xrays", LITE0, 64, 6, 1e-3),
    Attempt("xrays", LITE0, 64, 6, 1e-3, terms=KD, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", LITE2, 64, 6, 1e-3),
    Attempt("phantom", LITE2, 96, 6, 1e-3),
    Attempt("xrays", LITE0, 96, 4, 1e-3),
    Attempt("xrays", LITE0, 96, 4, 1e-3, terms=KD, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", EEEA, 96, 24, 2e-3, terms=KD, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", EEEA, 96, 24, 2e-3),
    Attempt("phantom", LITE0, 96, 4, 1e-3),
    Attempt("phantom", LITE0, 96, 4, 1e-3, terms=KD, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", EEEA, 96, 12, 2e-3, terms=KD_4, taught_by=((LITE2, 6, 1e-3),), views=24),
    Attempt("phantom", EEEA, 96, 12, 2e-3, terms=KD, taught_by=((LITE2, 6, 1e-3),), views=24),
    Attempt("xrays", EEEA, 96, 8, 2e-3),
    Attempt("xrays", EEEA, 96, 8, 2e-3, terms=KD_4, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("xrays", LITE0, 96, 4, 1e-3, terms=KD_4, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("xrays", LITE2, 96, 6, 3e-4),
    # After the phantom's first table, in which Lite0 was worse with a temperature of 4 than without a teacher: why?
    Attempt("phantom", LITE0, 96, 6, 1e-3),
    Attempt("phantom", LITE0, 96, 6, 1e-3, terms=KD_4, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", LITE0, 96, 6, 1e-3, terms=KD_HALF, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", LITE0, 96, 12, 1e-3),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD_HALF, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD, taught_by=((LITE2, 6, 1e-3),)),
    Attempt("phantom", LITE0, 96, 12, 1e-3, terms=KD, taught_by=((LITE2, 12, 1e-3),)),
]


def recipe_of(attempt: Attempt) -> Recipe:
    """The recipe that its terms say."""
    terms = []
    for text in attempt.terms:
        loss, weight, *rest = text.split()
        terms.append({"loss": loss, "weight": float(weight)} | ({"temperature": float(rest[0])} if rest else {}))
    return Recipe(teachers=[name for name, *_ in attempt.taught_by], terms=terms, combine=attempt.combine)


def make(attempt: Attempt, xrays: Path | None) -> dict:
    """Train an attempt; its validation macro AUROC, best epoch, and seconds."""
    dataset = open_phantom(attempt.size) if attempt.data == "phantom" else fold_of(open_xrays(xrays, attempt.size), 0)
    needs_cams = any(text.startswith("cam_kd") for text in attempt.terms)
    params = read_params(
        training={"batch_size": attempt.batch},
        teach={"views": attempt.views or attempt.epochs, "cams": needs_cams},
    )
    setting = Setting(f"{attempt.data}/{0 if attempt.data == 'xrays' else 'own'}", dataset, params)

    def network(name: str, epochs: int, rate: float) -> Network:
        made = (params.teachers | params.students)[name]
        return made.model_copy(
            update={"training": made.training.model_copy(update={"epochs": epochs, "learning_rate": rate})}
        )

    own = network(attempt.network, attempt.epochs, attempt.rate)
    if attempt.network in params.teachers:
        trained = setting.train_teacher(attempt.network, own, SEED)
    else:
        teachers = [setting.train_teacher(name, network(name, *how), SEED) for name, *how in attempt.taught_by]
        trained = setting.train_student(attempt.network, own, recipe_of(attempt), SEED, teachers)
    return read_json(trained.folder / "metrics.json")


def table(rows: list[dict]) -> str:
    """All attempts as Markdown, in the order in which they were made."""
    lines = [
        "| data | network | px | epochs | learning rate | batch | taught by | losses | views | best epoch "
        "| val macro AUROC | s |",
        "|---|---|---:|---:|---:|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        teachers = ", ".join(f"{name} ({epochs} epochs)" for name, epochs, _ in row["taught_by"])
        losses = " + ".join(row["terms"])
        lines.append(
            f"| {row['data']} | {row['network']} | {row['size']} | {row['epochs']} | {row['rate']:g} | {row['batch']} "
            f"| {teachers} | {losses or BCE} | {row['views'] or row['epochs']} | {row['best_epoch']} "
            f"| {row['val_macro_auroc']:.3f} | {row['train_seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make what has not been attempted, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--xrays", type=Path, help="folder of the X-rays, in the layout of ChestX-ray14")
    xrays = parser.parse_args().xrays
    rows = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    made = {json.dumps({key: row[key] for key in asdict(ATTEMPTS[0])}) for row in rows}
    for attempt in ATTEMPTS:
        if json.dumps(asdict(attempt)) in made or (attempt.data == "xrays" and xrays is None):
            continue
        rows.append(asdict(attempt) | make(attempt, xrays))
        with FILE.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        write_between("docs/results.md", "attempts", table(rows))


if __name__ == "__main__":
    main()
