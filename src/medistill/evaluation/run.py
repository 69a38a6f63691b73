"""All models of a run: measured on each split, compared with their references, and in numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medistill.data.dataset import Dataset
from medistill.evaluation.answers import Split, Validation
from medistill.evaluation.calibration import calibrate
from medistill.evaluation.comparison import Measured, adjust, best, compare_pair, difference
from medistill.evaluation.curves import curves_of
from medistill.evaluation.figures import FIGURES, LEAD
from medistill.evaluation.operating import operating_points
from medistill.evaluation.predictions import Studies, align
from medistill.evaluation.settings import Evaluate
from medistill.evaluation.softened import soften_answers
from medistill.evaluation.subgroups import measure_subgroups, parts_of
from medistill.files import atomic
from medistill.layout import KnowledgeFolder, ReportsFolder
from medistill.metrics.intervals import Codes, FloatArray
from medistill.records.evaluation import Comparison, Evaluation, SplitFigures, write_comparisons
from medistill.records.figures import Figures
from medistill.records.models import Role

SPLITS = ("val", "test")
"""Splits that are measured. Validation chooses references; test chooses nothing."""


@dataclass(frozen=True)
class References:
    """The models that each student is compared with.

    Attributes:
        baselines: of each student, the names of its baselines; a baseline has none.
        teachers: names of the teachers, with which every student is compared.
    """

    baselines: Mapping[str, Sequence[str]]
    teachers: Sequence[str]


def measure_split(
    dataset: Dataset,
    split_name: str,
    logits: Mapping[str, pd.DataFrame],
    files: Mapping[str, Path],
    settings: Evaluate,
    on_label: Callable[[], object] | None = None,
) -> dict[str, Measured]:
    """Measure models on one split, all in the same resamples.

    Args:
        dataset: the truth.
        split_name: of its split.
        logits: of each model, from `read_logits`.
        files: where these were read, for messages.
        settings: resamples, seed, and whether studies are measured in place of images.
        on_label: called once per model and label while the work goes on.

    Raises:
        UserError: a model predicted other images than the split has, studies or strata cannot be formed, or the
            order is of other classes.
    """
    settings.require_classes(dataset.labels, dataset.task)
    rows = dataset.split(split_name)
    targets, groups = dataset.targets(rows), rows["group_id"].to_numpy()
    aligned = {name: align(table, split_name, rows["image_id"], files[name], name) for name, table in logits.items()}
    if settings.study != "none":
        studies = Studies.of(rows)
        targets, groups, rows = studies.targets(targets), groups[studies.first], rows.iloc[studies.first]
        aligned = {name: studies.combine(scores, settings.study, dataset.task) for name, scores in aligned.items()}
    split = Split.of(dataset.labels, targets, groups, settings.resamples, settings.seed, dataset.task, split_name)
    if settings.ordered:
        split = split.ordered(settings.ordered)
    if settings.strata != "none":
        settings.require_strata(rows[settings.strata], split_name)
        split = split.within(settings.strata, _strata(rows[settings.strata]))
    return {name: Measured.of(split, scores, on_label=on_label) for name, scores in aligned.items()}


def _strata(values: pd.Series) -> Codes:
    """The stratum of each image, from 0; -1 (`NO_STRATUM`) where the value is missing."""
    codes, _ = pd.factorize(values.replace("", None))
    return codes


def test_rows(dataset: Dataset, settings: Evaluate) -> pd.DataFrame:
    """The manifest's rows of what is measured on test: its images, or the first image of each study."""
    rows = dataset.split("test")
    return rows if settings.study == "none" else rows.iloc[Studies.of(rows).first]


def describe_all(
    rows: pd.DataFrame,
    measured: Mapping[str, Mapping[str, Measured]],
    roles: Mapping[str, Role],
    references: References,
    settings: Evaluate,
) -> dict[str, Evaluation]:
    """All figures of each model, for reports/evaluation/<model>.json.

    Args:
        rows: of the test split, from `test_rows`.
        measured: by split, then by model.
        roles: of each model.
        references: of the students.
        settings: of the evaluation.
    """
    study = None if settings.study == "none" else settings.study
    test = {name: one.answers for name, one in measured["test"].items()}
    val = {name: Validation(one.answers) for name, one in measured["val"].items()}
    operating = {name: operating_points(val[name], test[name]) for name in roles}
    as_called = {name: test[name].calibrated(val[name].calibration) for name in roles}  # thresholds are on these
    subgroups = measure_subgroups(parts_of(rows), as_called, operating, references.baselines)
    teacher, students = best(measured["val"], references.teachers), list(references.baselines)
    curves = curves_of(val, test, teacher, students, settings.net_benefit)
    return {
        name: Evaluation(
            model=name,
            role=role,
            seed=settings.seed,
            study=study,
            val=measured["val"][name].describe(),
            test=measured["test"][name].describe(),
            calibration=calibrate(val[name], test[name]),
            operating=operating[name],
            subgroups=subgroups[name],
            curves=curves[name],
        )
        for name, role in roles.items()
    }


def soften(
    described: Mapping[str, Evaluation], dataset: Dataset, folders: Mapping[str, KnowledgeFolder], settings: Evaluate
) -> dict[str, Evaluation]:
    """The same with what teachers' cached answers say of subgroups at several temperatures.

    Args:
        described: by model, from `describe_all`.
        dataset: its training images were answered.
        folders: of the teachers' answers.
        settings: resamples and seed.

    Raises:
        UserError: answers are damaged.
    """
    found = {n: soften_answers(dataset, files, settings.resamples, settings.seed) for n, files in folders.items()}
    return {name: one.model_copy(update={"softened": found.get(name, [])}) for name, one in described.items()}


def compare_all(measured: Mapping[str, Mapping[str, Measured]], references: References) -> list[Comparison]:
    """Rows of comparisons.csv: every distilled student − its baselines, every student − every teacher, per split.

    Args:
        measured: by split, then by model.
        references: of the students.
    """
    rows = []
    for split, models in measured.items():
        here = []
        for student, baselines in references.baselines.items():
            pairs = [(name, "baseline") for name in baselines] + [(name, "teacher") for name in references.teachers]
            for reference, relation in pairs:
                here += compare_pair(models, split, student, reference, relation)
        rows += adjust(here)
    return rows


def numbers(
    described: Mapping[str, Evaluation], measured: Mapping[str, Mapping[str, Measured]], references: References
) -> dict[str, dict[str, Figures]]:
    """What metrics.json says of each model on each split.

    A student has its macro AUROC minus its better baseline's and minus the best teacher's as well, both chosen on
    validation. Undefined figures are left out, since DVC metrics are numbers.

    Args:
        described: by model, from `describe_all`.
        measured: by split, then by model.
        references: of the students.

    Returns:
        By model, then by split.
    """
    found = {name: {split: _figures(model.on(split)) for split in measured} for name, model in described.items()}
    teacher = best(measured["val"], references.teachers)
    for student, baselines in references.baselines.items():
        for relation, reference in (("baseline", best(measured["val"], baselines)), ("teacher", teacher)):
            if reference is None:
                continue
            for split, models in measured.items():
                estimate, _ = difference(models[student], models[reference], LEAD)
                found[student][split] |= _defined(estimate.flat(f"difference_{relation}"))
    return found


def _figures(described: SplitFigures) -> Figures:
    """Figures over all labels: an estimate with its bounds as three entries."""
    found: Figures = {}
    for figure in FIGURES:
        if figure.summary and figure.key in described.figures:  # some are of another task
            found |= _defined(described.figure(figure.key).flat(figure.key))
    return found | {"eligible_labels": len(described.labels)}


def _defined(figures: Mapping[str, float | None]) -> Figures:
    return {key: value for key, value in figures.items() if value is not None}


def write_tables(
    reports: ReportsFolder,
    described: Mapping[str, Evaluation],
    curves: Mapping[str, tuple[FloatArray, FloatArray]],
    comparisons: Sequence[Comparison],
) -> list[Path]:
    """Write evaluation/, roc/ and comparisons.csv, each whole or not at all.

    Args:
        reports: where they go.
        described: the content of evaluation/<model>.json, by model.
        curves: false and true positive rates of roc/<model>.csv, by model.
        comparisons: from `compare_all`.

    Returns:
        The files.
    """
    with atomic(reports.evaluations) as folder:
        folder.mkdir()
        for name, value in described.items():
            value.write(folder / reports.evaluation(name).name)
    with atomic(reports.rocs) as folder:
        folder.mkdir()
        for name, (fpr, tpr) in curves.items():
            curve = pd.DataFrame({"fpr": fpr, "tpr": tpr})
            curve.to_csv(folder / reports.roc(name).name, index=False, lineterminator="\n")
    write_comparisons(reports.comparisons, comparisons)
    return [reports.comparisons, *reports.evaluations.iterdir(), *reports.rocs.iterdir()]
