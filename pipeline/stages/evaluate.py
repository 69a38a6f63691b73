"""Measure every model of the run on val and test, and every student against baselines and teachers."""

import argparse

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.layout import HERE, KnowledgeFolder
from medistill.params import load_params
from medistill.records.base import Sealed, write_each
from medistill.records.evaluation import ModelNumbers
from medistill.records.models import ModelRecord
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/metrics.json, evaluation/, comparisons.csv and roc/, and evaluation.json with their checksums."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params = load_params()
    dataset = Dataset.open()

    from tqdm import tqdm

    from medistill.evaluation import run
    from medistill.evaluation.predictions import read_logits

    models, configs = params.model_folders(), {}
    for name, model in models.items():
        configs[name] = ModelRecord.read_whole(model.config)
        provenance.refuse_overlap(model.train_ids, dataset)
    files = {name: model.predictions for name, model in models.items()}
    known = {name: config.measured_labels for name, config in configs.items()}
    logits = {name: read_logits(path, name, dataset.labels, known=known[name]) for name, path in files.items()}
    steps = len(run.SPLITS) * len(models) * len(dataset.labels)
    with tqdm(total=steps, desc="evaluate", unit="label", disable=None, leave=False) as bar:
        measured = {
            split: run.measure_split(dataset, split, logits, files, params.evaluate, on_label=bar.update)
            for split in run.SPLITS
        }

    students, reports = params.student_models(), HERE.reports
    baselines = {
        model.name: [other.name for other in params.baselines_of(model)] if params.is_distilled(model) else []
        for model in students
    }
    references = run.References(baselines, list(params.teacher_models()))
    rows, roles = run.test_rows(dataset, params.evaluate), {name: config.role for name, config in configs.items()}
    described = run.describe_all(rows, measured, roles, references, params.evaluate)
    answers = {name: KnowledgeFolder(params.knowledge_folder(name)) for name in params.teacher_models()}
    described = run.soften(described, dataset, answers, params.evaluate)
    curves = {name: model.roc() for name, model in measured["test"].items()}
    written = run.write_tables(reports, described, curves, run.compare_all(measured, references))
    figures = run.numbers(described, measured, references)
    made = {name: ModelNumbers(params=one.params, macs=one.macs, **figures[name]) for name, one in configs.items()}
    write_each(reports.metrics, made)
    Sealed().write(reports.evaluation_record, [*written, reports.metrics])
    return 0


if __name__ == "__main__":
    run_stage(main)
