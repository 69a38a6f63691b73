"""Facts about each student, read from files, separate from the rules that judge them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from medistill.checksums import what_to_run
from medistill.files import sha256
from medistill.layout import Layout, ReportsFolder, student_name
from medistill.records.base import Sealed, read_each
from medistill.records.evaluation import ModelNumbers
from medistill.records.export import Parity
from medistill.records.gate import CandidateFacts, Release
from medistill.records.licenses import read_recorded
from medistill.records.models import ModelRecord


@dataclass(frozen=True)
class Candidate:
    """A student of the run.

    Attributes:
        student, recipe, seed: its place in the matrix.
        distilled: whether its recipe has teachers.
        has_baseline: whether the run has the same student and seed by a recipe without teachers.
    """

    student: str
    recipe: str
    seed: int
    distilled: bool
    has_baseline: bool

    @property
    def model(self) -> str:
        """Name of its folder."""
        return student_name(self.student, self.recipe, self.seed)


@dataclass(frozen=True)
class Shipped:
    """The models that were shipped before, for the rules about these.

    Attributes:
        champion: the present one; None if there is none.
        withdrawn: sha256 of every model.onnx that was rolled back → when.
    """

    champion: Release | None
    withdrawn: dict[str, str]


def finite(value: float | None) -> float | None:
    """`value` where it is a finite number, else None: NaN must neither pass a rule nor reach a JSON file."""
    return value if value is not None and math.isfinite(value) else None


def collect_facts(candidates: Iterable[Candidate], layout: Layout) -> list[CandidateFacts]:
    """Read what the gate needs of every student of the run.

    Reads each student's config.json and licences, reports/metrics.json, and the size of model.onnx and parity.json,
    where there is an export. All files that these folders' records name must be undamaged.

    Args:
        candidates: the students.
        layout: of the checkout.

    Raises:
        UserError: a student's folder or reports/metrics.json is missing, or a file is damaged.
    """
    metrics = read_metrics(layout.reports)
    facts = []
    for candidate in candidates:
        config = ModelRecord.read_whole(layout.student(candidate.model).config)
        params, macs = config.costs
        export = layout.export(candidate.model)
        exported = Sealed.read_whole(export.bundle).files if export.folder.is_dir() else {}
        has_parity, again = export.parity.name in exported, what_to_run(export.bundle)
        facts.append(
            CandidateFacts(
                model=candidate.model,
                **asdict(candidate),
                arch=config.arch,
                initialisation=config.initialisation,
                dataset_fingerprint=config.dataset_fingerprint,
                params=params,
                macs=macs,
                onnx_mb=export.onnx.stat().st_size / 1e6 if export.onnx.name in exported else None,
                parity=Parity.read(export.parity, again) if has_parity else None,
                validation=metrics[candidate.model].val if candidate.model in metrics else {},
                ancestors=read_recorded(layout.reports, candidate.model),
            )
        )
    return facts


def release_of(facts: CandidateFacts, layout: Layout) -> Release:
    """The candidate as the registry will have it."""
    return Release(
        model=facts.model,
        onnx_sha256=sha256(layout.export(facts.model).onnx),
        val_macro_auroc=finite(facts.figure("macro_auroc").estimate),
        dataset_fingerprint=facts.dataset_fingerprint,
        version=None,
    )


def read_metrics(reports: ReportsFolder) -> dict[str, ModelNumbers]:
    """What `evaluate` has measured of each model: reports/metrics.json, held against the record of all that it wrote.

    Raises:
        UserError: one of its files is missing or damaged.
    """
    Sealed.read_whole(reports.evaluation_record)
    return read_each(reports.metrics, ModelNumbers, what_to_run(reports.evaluation_record))
