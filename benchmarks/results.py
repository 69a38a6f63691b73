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
    """Copy the tracked files and ask for more seeds, and for a baseline that sees new views in each epoch."""
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


def mean_over_seeds(measured: dict[str, Measured], student: str, recipe: str) -> np.ndarray:
    """Macro AUROC, mean over seeds, on the data themselves and in each resample: (1 + R,)."""
    return np.mean([measured[f"{student}-{recipe}-{seed}"].macro("auroc") for seed in SEEDS], axis=0)


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
        "| difference to the better baseline |",
        "|---|---|---|---:|---:|---|---|---|",
    ]

    def row(name: str, role: str, folder: Path, auroc: str, spread: str, difference: str) -> str:
        config = read_json(folder / "config.json")
        initialisation = config["initialisation"].split(" (")[0]
        cost = f"{config['params'] / 1e6:.2f} M | {config['macs'] / 1e6:.0f} M"
        return f"| {name} | {role} | {initialisation} | {cost} | {auroc} | {spread} | {difference} |"

    for name in params.run.teachers:
        folder = COPY / "models" / "teachers" / name
        lines.append(row(name, "teacher", folder, interval(test[name].macro("auroc")), "one seed", ""))
    plain = [name for name in params.run.recipes if not params.recipes[name].teachers]
    for student in params.run.students:
        # The better baseline is chosen on validation, so that the test side decides nothing.
        better = max(plain, key=lambda recipe: mean_over_seeds(val, student, recipe)[0])
        for recipe in params.run.recipes:
            values = mean_over_seeds(test, student, recipe)
            single = [test[f"{student}-{recipe}-{seed}"].macro("auroc")[0] for seed in SEEDS]
            difference = ""
            if recipe not in plain:
                difference = interval(values - mean_over_seeds(test, student, better), sign=True)
            elif recipe == better:
                difference = "(the better one)"
            role = "student, distilled" if recipe not in plain else "student, baseline"
            if recipe == FRESH_BASELINE:
                role += ", fresh views"
            folder = COPY / "models" / "students" / f"{student}-{recipe}-{SEEDS[0]}"
            spread = f"{min(single):.3f} … {max(single):.3f}"
            lines.append(row(f"{student}, {recipe}", role, folder, interval(values), spread, difference))
    split = next(iter(test.values())).split
    skipped = "; ".join(f"{label} ({reason})" for label, reason in split.skipped.items()) or "none"
    lines += [
        "",
        f"Phantom: {params.phantom.images} images of {params.phantom.size} px, {len(split.targets)} of them to test,",
        f"from {len(split.counts)} patients. Mean over {len(split.eligible)} labels (left out: {skipped});",
        f"students are means over seeds {', '.join(map(str, SEEDS))}, teachers are trained once. 95 % intervals from",
        f"{split.resamples} bootstrap resamples of patients, paired for differences; the better baseline is chosen on",
        "validation. `make results` wrote this table.",
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
