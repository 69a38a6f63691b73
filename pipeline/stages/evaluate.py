"""Measure every model of the run on val and test, and every student against baselines and teachers."""

import argparse
from typing import TYPE_CHECKING

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic, write_json
from medistill.layout import HERE
from medistill.params import Params, load_params
from medistill.records.base import Sealed
from medistill.records.models import ModelRecord
from pipeline.stage import run_stage

if TYPE_CHECKING:
    from medistill.evaluation.run import References


def main(argv: list[str] | None = None) -> int:
    """Write reports/metrics.json, evaluation/, comparisons.csv and roc/, and evaluation.json with their checksums."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params = load_params()
    dataset = Dataset.open()

    import pandas as pd
    from tqdm import tqdm

    from medistill.evaluation import run
    from medistill.evaluation.comparison import COLUMNS
    from medistill.evaluation.predictions import read_logits

    models, study = params.model_folders(), params.evaluate.study
    configs = {}
    for name, model in models.items():
        configs[name] = ModelRecord.read_whole(model.config)
        provenance.refuse_overlap(model.train_ids, dataset)
    files = {name: model.predictions for name, model in models.items()}
    known = {name: config.labels if config.role == "teacher" else None for name, config in configs.items()}
    logits = {name: read_logits(path, name, dataset.labels, known=known[name]) for name, path in files.items()}
    steps = len(run.SPLITS) * len(models) * len(dataset.labels)
    with tqdm(total=steps, desc="evaluate", unit="label", disable=None, leave=False) as bar:
        measured = {
            split: run.measure_split(dataset, split, logits, files, params.evaluate, on_label=bar.update)
            for split in run.SPLITS
        }

    described = {
        name: {"model": name, "role": configs[name].role, "seed": params.evaluate.seed}
        | ({"study": study} if study != "none" else {})
        | {split: measured[split][name].describe() for split in run.SPLITS}
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

    references = _references(params)
    with atomic(reports.comparisons) as path:
        rows = pd.DataFrame(run.compare_all(measured, references), columns=list(COLUMNS))
        rows.to_csv(path, index=False, lineterminator="\n")
    figures = run.numbers(described, measured, references)
    costs = {name: {"params": config.params, "macs": config.macs} for name, config in configs.items()}
    write_json(reports.metrics, {name: costs[name] | figures[name] for name in models})
    written = [reports.metrics, reports.comparisons, *reports.evaluations.iterdir(), *reports.rocs.iterdir()]
    Sealed().write(reports.evaluation_record, written)
    return 0


def _references(params: Params) -> "References":
    """The baselines of each distilled student; a baseline has none. Every student is compared with every teacher."""
    from medistill.evaluation.run import References

    baselines = {
        model.name: [other.name for other in params.baseline_of(model)] if params.recipes[model.recipe].teachers else []
        for model in params.student_models()
    }
    return References(baselines, params.run.all_teachers)


if __name__ == "__main__":
    run_stage(main)
