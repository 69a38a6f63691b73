"""What the gate knows of each student: read from files, apart from the rules that judge it."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from medistill.checksums import what_to_run
from medistill.files import read_json, sha256
from medistill.layout import Layout, ReportsFolder, student_name
from medistill.records.base import Sealed
from medistill.records.export import Parity
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
class Release:
    """A student as registry and history know it.

    Attributes:
        model: its name, `<student>-<recipe>-<seed>`.
        onnx_sha256: of model.onnx; None where it was not exported.
        val_macro_auroc: on validation; None where undefined.
        dataset_fingerprint: of the data it was trained and measured on.
        version: in the registry; None where it is not in it.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # of history.jsonl

    model: str
    onnx_sha256: str | None
    val_macro_auroc: float | None
    dataset_fingerprint: str
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @property
    def title(self) -> str:
        """Its name, with the version where it has one."""
        return self.model if self.version is None else f"{self.model} (version {self.version})"


@dataclass(frozen=True)
class Shipped:
    """What was shipped before, for the rules that ask for it.

    Attributes:
        champion: the present one; None where there is none.
        withdrawn: sha256 of every model.onnx that was rolled back → when.
    """

    champion: Release | None
    withdrawn: dict[str, str]


@dataclass(frozen=True)
class CandidateFacts:
    """What the gate knows of one student.

    Attributes:
        model: name of its folder, `<student>-<recipe>-<seed>`.
        student, recipe, seed: its place in the matrix.
        arch, initialisation: for the reader; no rule looks at them.
        params: number of parameters.
        macs: multiply-accumulates of one image at the model's input size.
        onnx_mb: size of `model.onnx` in megabytes (10^6 bytes); None where it was not exported.
        parity: what `parity.json` says; None where it was not exported.
        validation: its `val` entry of `reports/metrics.json`; a figure that is undefined is absent.
        distilled: whether its recipe has teachers.
        has_baseline: whether the run has the same student and seed by a recipe without teachers.
    """

    model: str
    student: str
    recipe: str
    seed: int
    arch: str
    initialisation: str
    params: int
    macs: int
    onnx_mb: float | None
    parity: Parity | None
    validation: dict[str, float]
    distilled: bool
    has_baseline: bool

    def figure(self, key: str) -> float | None:
        """A validation figure where it is a finite number."""
        return finite(self.validation.get(key))

    def to_dict(self) -> dict[str, Any]:
        """All facts, as JSON takes them."""
        return asdict(self) | {"parity": self.parity and self.parity.to_json()}


def finite(value: Any) -> float | None:
    """`value` where it is a finite number, else None: NaN must neither pass a rule nor reach a JSON file."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def collect_facts(candidates: Iterable[Candidate], layout: Layout) -> list[CandidateFacts]:
    """Read what the gate needs of every student of the run.

    Reads each student's config.json, reports/metrics.json, and the size of model.onnx and parity.json, where there is
    an export. All that these folders' records name must be whole.

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
        export = layout.export(candidate.model)
        exported = Sealed.read_whole(export.bundle).files if export.folder.is_dir() else {}
        has_parity, again = export.parity.name in exported, what_to_run(export.bundle)
        facts.append(
            CandidateFacts(
                model=candidate.model,
                student=candidate.student,
                recipe=candidate.recipe,
                seed=candidate.seed,
                arch=config.arch,
                initialisation=config.initialisation,
                params=config.params,
                macs=config.macs,
                onnx_mb=export.onnx.stat().st_size / 1e6 if export.onnx.name in exported else None,
                parity=Parity.read(export.parity, again) if has_parity else None,
                validation=metrics.get(candidate.model, {}).get("val", {}),
                distilled=candidate.distilled,
                has_baseline=candidate.has_baseline,
            )
        )
    return facts


def read_release(facts: CandidateFacts, layout: Layout) -> Release:
    """The candidate as the registry will know it.

    Raises:
        UserError: its config.json is missing or damaged.
    """
    record = ModelRecord.read(layout.student(facts.model).config)
    return Release(
        model=facts.model,
        onnx_sha256=sha256(layout.export(facts.model).onnx),
        val_macro_auroc=facts.validation.get("macro_auroc"),
        dataset_fingerprint=record.dataset_fingerprint,
    )


def read_metrics(reports: ReportsFolder) -> dict[str, Any]:
    """What `evaluate` has measured: reports/metrics.json, held against the record of all that it has written.

    Raises:
        UserError: one of its files is missing or damaged.
    """
    Sealed.read_whole(reports.evaluation_record)
    return read_json(reports.metrics)
