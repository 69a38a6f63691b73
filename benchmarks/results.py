"""Three seeds of the phantom through the graph, and the README's table of results.

    make results

Works in .cache/results/, a copy of this repository with more seeds and a second baseline, which shares DVC's cache with
it: what is trained already is not trained again. Nothing in the table is typed in by hand.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from medistill.config import Params, load_params
from medistill.data.dataset import Dataset
from medistill.evaluation import bootstrap
from medistill.evaluation.comparison import Measured, Split
from medistill.evaluation.predictions import align, read_logits
from medistill.files import atomic, read_json

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / ".cache" / "results"
SEEDS = [0, 1, 2]
FRESH_BASELINE = "baseline_fresh"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def prepare() -> Params:
    """Copy the tracked files and ask for more seeds, and for a baseline that sees new views in each epoch.

    A teacher of another seed is a teacher of its own; students are taught by those that their recipe names.
    """
    COPY.mkdir(parents=True, exist_ok=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name != "dvc.lock" or not (COPY / name).exists():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)
    if not (COPY / ".git").exists():
        subprocess.run(["git", "init", "--quiet"], cwd=COPY, check=True)
    cache = os.path.relpath(ROOT / ".dvc" / "cache", COPY / ".dvc")
    (COPY / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["recipes"][FRESH_BASELINE] = {"views": "fresh"}
    params["run"]["recipes"] = [*params["run"]["recipes"], FRESH_BASELINE]
    params["run"]["seeds"] = SEEDS
    for name in list(params["run"]["teachers"]):
        for seed in SEEDS[1:]:
            params["teachers"][f"{name}_{seed}"] = params["teachers"][name] | {"seed": seed}
            params["run"]["teachers"].append(f"{name}_{seed}")
    with atomic(COPY / "params.yaml") as file:
        file.write_text(yaml.safe_dump(params, sort_keys=False))
    return load_params(COPY / "params.yaml")


def measure(params: Params, split_name: str) -> dict[str, Measured]:
    """Every model of the run on one split, all on the same resamples."""
    dataset = Dataset.open(COPY / "data" / "processed")
    rows = dataset.split(split_name)
    split = Split.of(
        dataset.labels,
        dataset.targets(rows),
        rows["group_id"].to_numpy(),
        params.evaluate.resamples,
        params.evaluate.seed,
    )
    measured = {}
    for name, folder in tqdm(params.model_folders().items(), desc=split_name, disable=None):
        file = COPY / folder / "predictions.parquet"
        table = read_logits(file, name, dataset.labels)
        measured[name] = Measured.of(split, align(table, split_name, rows["image_id"], file, name))
    return measured


def of_seeds(measured: dict[str, Measured], names: list[str]) -> np.ndarray:
    """Macro AUROC of one model trained from several seeds, on the data themselves and in each resample: (S, 1 + R)."""
    return np.array([measured[name].macro("auroc") for name in names])


def teachers(name: str) -> list[str]:
    """One teacher's models, a seed each."""
    return [name, *(f"{name}_{seed}" for seed in SEEDS[1:])]


def students(student: str, recipe: str) -> list[str]:
    """One student's models by one recipe, a seed each."""
    return [f"{student}-{recipe}-{seed}" for seed in SEEDS]


def interval(values: np.ndarray, *, sign: bool = False) -> str:
    """A figure with its 95 % interval, as text."""
    figure = bootstrap.summarise(values)
    form = "{:+.3f}" if sign else "{:.3f}"
    text = form.format(figure.estimate)
    return text if figure.lower is None else f"{text} [{form.format(figure.lower)}, {form.format(figure.upper)}]"


def table(params: Params) -> str:
    """The table, and how to read it, in Markdown."""
    val, test = measure(params, "val"), measure(params, "test")
    lines = [
        "| model | role | initialisation | parameters | MACs | test macro AUROC | spread over seeds "
        "| difference to the baseline of the same views | to the better baseline |",
        "|---|---|---|---:|---:|---|---|---|---|",
    ]

    def row(title: str, role: str, models: list[str], *differences: str) -> str:
        config = read_json(COPY / params.model_folders()[models[0]] / "config.json")
        values = of_seeds(test, models)
        cells = (
            title,
            role,
            config["initialisation"].split(" (")[0],
            f"{config['params'] / 1e6:.2f} M",
            f"{config['macs'] / 1e6:.0f} M",
            interval(values.mean(axis=0)),
            f"{values[:, 0].min():.3f} … {values[:, 0].max():.3f}",
            *differences,
        )
        return f"| {' | '.join(cells)} |"

    first = [name for name in params.run.teachers if params.teachers[name].seed == SEEDS[0]]
    lines += [row(name, "teacher", teachers(name), "", "") for name in first]
    plain = [name for name in params.run.recipes if not params.recipes[name].teachers]
    for student in params.run.students:
        # The better baseline is chosen on validation, so that the test side decides nothing.
        better = max(plain, key=lambda recipe: of_seeds(val, students(student, recipe))[:, 0].mean())
        for recipe in params.run.recipes:
            models = students(student, recipe)
            differences = ["", "(the better one)" if recipe == better else ""]
            if recipe not in plain:
                same_views = next(name for name in plain if params.recipes[name].views == "cached")
                differences = [
                    interval(
                        (of_seeds(test, models) - of_seeds(test, students(student, reference))).mean(axis=0), sign=True
                    )
                    for reference in (same_views, better)
                ]
            role = "student, distilled" if recipe not in plain else "student, baseline"
            if recipe == FRESH_BASELINE:
                role += ", fresh views"
            lines.append(row(f"{student}, {recipe}", role, models, *differences))
    split = next(iter(test.values())).split
    skipped = "; ".join(f"{label} ({reason})" for label, reason in split.skipped.items()) or "none"
    lines += [
        "",
        f"Phantom: {params.phantom.images} images of {params.phantom.size} px, {len(split.targets)} of them to test,",
        f"from {len(split.counts)} patients. Mean over {len(split.eligible)} labels (left out: {skipped});",
        f"figures are means over seeds {', '.join(map(str, SEEDS))}; all students are taught by the teacher of seed 0.",
        f"95 % intervals from {split.resamples} bootstrap resamples of patients, paired for differences; the better",
        "baseline is chosen on validation. `make results` wrote this table.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the graph and write the table into README.md."""
    params = prepare()
    subprocess.run(["dvc", "repro", "evaluate"], cwd=COPY, check=True)
    text = table(params)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    with atomic(ROOT / "README.md") as file:
        file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
