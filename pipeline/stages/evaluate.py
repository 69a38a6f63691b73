"""Measure every model of the run on val and test, and every student against baselines and teachers."""

import argparse
from typing import Any

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic, write_json
from medistill.layout import HERE
from medistill.params import Params, load_params
from medistill.records.base import Sealed
from medistill.records.models import ModelRecord
from pipeline.stage import run_stage

SPLITS = ("val", "test")


def main(argv: list[str] | None = None) -> int:
    """Write reports/metrics.json, evaluation/, comparisons.csv and roc/, and evaluation.json with their checksums."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params = load_params()
    dataset = Dataset.open()

    import pandas as pd
    from tqdm import tqdm

    from medistill.evaluation import comparison
    from medistill.evaluation.predictions import Studies, align, read_logits

    models, study = params.model_folders(), params.evaluate.study
    configs = {}
    for name, model in models.items():
        configs[name] = ModelRecord.read_whole(model.config)
        provenance.refuse_overlap(model.train_ids, dataset)
    files = {name: model.predictions for name, model in models.items()}
    known = {name: config.labels if config.role == "teacher" else None for name, config in configs.items()}
    logits = {name: read_logits(path, name, dataset.labels, known=known[name]) for name, path in files.items()}
    measured: dict[str, dict[str, comparison.Measured]] = {}
    steps = len(SPLITS) * len(models) * len(dataset.labels)
    with tqdm(total=steps, desc="evaluate", unit="label", disable=None, leave=False) as bar:
        for split_name in SPLITS:
            rows = dataset.split(split_name)
            targets, groups = dataset.targets(rows), rows["group_id"].to_numpy()
            aligned = {
                name: align(table, split_name, rows["image_id"], files[name], name) for name, table in logits.items()
            }
            if study != "none":
                views = Studies.of(rows)
                targets, groups = views.targets(targets), groups[views.first]
                aligned = {name: views.combine(scores, study, dataset.task) for name, scores in aligned.items()}
            split = comparison.Split.of(
                dataset.labels, targets, groups, params.evaluate.resamples, params.evaluate.seed, dataset.task
            )
            measured[split_name] = {
                name: comparison.Measured.of(split, scores, on_label=bar.update) for name, scores in aligned.items()
            }

    described = {
        name: {"model": name, "role": configs[name].role, "seed": params.evaluate.seed}
        | ({"study": study} if study != "none" else {})
        | {split: measured[split][name].describe() for split in SPLITS}
        for name in models
    }
    reports = HERE.reports
    with atomic(reports.evaluations) as folder:
        folder.mkdir()
        for name, value in described.items():
            write_json(folder / reports.evaluation(name).name, value)
    with atomic(reports.rocs) as folder:
        folder.mkdir()
        for name in models:
            fpr, tpr = measured["test"][name].roc()
            curve = pd.DataFrame({"fpr": fpr, "tpr": tpr})
            curve.to_csv(folder / reports.roc(name).name, index=False, lineterminator="\n")

    rows = compare(params, measured)
    with atomic(reports.comparisons) as path:
        pd.DataFrame(rows, columns=list(comparison.COLUMNS)).to_csv(path, index=False, lineterminator="\n")
    numbers = {name: numbers_of(described[name], configs[name]) for name in models}
    add_differences(numbers, params, measured)
    write_json(reports.metrics, numbers)
    written = [reports.metrics, reports.comparisons, *reports.evaluations.iterdir(), *reports.rocs.iterdir()]
    Sealed().write(reports.evaluation_record, written)
    return 0


def compare(params: Params, measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of comparisons.csv: every distilled student − its baselines, every student − every teacher, per split."""
    from medistill.evaluation.comparison import adjust
    from medistill.evaluation.comparison import compare as pair

    rows = []
    for split, models in measured.items():
        here = []
        for model in params.student_models():
            references = [(name, "baseline") for name in baselines(params, model)]
            references += [(name, "teacher") for name in params.run.all_teachers]
            for reference, relation in references:
                key = {"split": split, "model": model.name, "reference": reference, "relation": relation}
                here += [key | row for row in pair(models[model.name], models[reference])]
        adjust(here)
        rows += here
    return rows


def baselines(params: Params, model: Any) -> list[str]:
    """Names of the baselines of a distilled student; a baseline has none."""
    return [other.name for other in params.baseline_of(model)] if params.recipes[model.recipe].teachers else []


def numbers_of(described: dict[str, Any], config: ModelRecord) -> dict[str, Any]:
    """The entry of a model in metrics.json: what is undefined is left out, since DVC metrics are numbers."""
    from medistill.evaluation.comparison import MULTICLASS_FIGURES

    entry: dict[str, Any] = {"params": config.params, "macs": config.macs}
    for split in SPLITS:
        figures = described[split]
        numbers = {}
        for key in ("macro_auroc", "macro_auprc", *MULTICLASS_FIGURES):
            if key in figures:  # accuracy is for exclusive classes
                numbers |= _bounded(key, figures[key])
        numbers |= {"macro_ece": figures["macro_ece"], "eligible_labels": len(figures["labels"])}
        entry[split] = _defined(numbers)
    return entry


def add_differences(numbers: dict[str, Any], params: Params, measured: dict[str, dict[str, Any]]) -> None:
    """Add each student's macro AUROC minus its better baseline's and minus the best teacher's, chosen on validation."""
    from medistill.evaluation.comparison import best, difference

    teacher = best(measured["val"], params.run.all_teachers)
    for model in params.student_models():
        baseline = best(measured["val"], baselines(params, model))
        for relation, reference in (("baseline", baseline), ("teacher", teacher)):
            if reference is None:
                continue
            for split, models in measured.items():
                estimate, _ = difference(models[model.name], models[reference], "auroc")
                numbers[model.name][split] |= _defined(_bounded(f"difference_{relation}", estimate.to_dict()))


def _bounded(key: str, figure: dict[str, Any]) -> dict[str, Any]:
    """An estimate with its bounds as three entries."""
    return {key: figure["estimate"], f"{key}_lower": figure["lower"], f"{key}_upper": figure["upper"]}


def _defined(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if value is not None}


if __name__ == "__main__":
    run_stage(main)
