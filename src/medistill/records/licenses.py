"""What the stage `licenses` writes: licenses/<model>.json, the ancestors of one model."""

from pathlib import Path

from medistill.checksums import LICENSES_AGAIN
from medistill.layout import ReportsFolder
from medistill.records.base import Content, Record


class Ancestor(Content):
    """Something that a model descends from.

    Attributes:
        license: of it, as an identifier of SPDX or in words; None: unknown.
        what: a data set, or the weights of a network.
        path: how the model descends from it, as keys of params.yaml: `students.small`, `recipes.kd`, `teachers.big`,
            `pretrained`.
    """

    license: str | None
    what: str
    path: list[str]

    @property
    def shown(self) -> str:
        """Its licence, for people."""
        return self.license or "unknown"

    @property
    def way(self) -> str:
        """Its path, for people."""
        return " → ".join(self.path)


class LicenseRecord(Record):
    """licenses/<model>.json.

    Attributes:
        model: its name.
        ancestors: data and weights, each once, the nearest first.
    """

    model: str
    ancestors: list[Ancestor]


class ExportedRecord(Record):
    """bundle.json of an export, as far as licences are concerned.

    Attributes:
        licenses: the model's ancestors; None where they were not recorded.
    """

    licenses: list[Ancestor] | None = None


def read_ancestors(path: Path, again: str = LICENSES_AGAIN) -> list[Ancestor] | None:
    """The ancestors in such a file; None where there is no file.

    Raises:
        UserError: it is damaged.
    """
    return LicenseRecord.read(path, again).ancestors if path.exists() else None


def read_recorded(reports: ReportsFolder, model: str) -> list[Ancestor] | None:
    """The ancestors of a model of the run; None where the stage has never run.

    Raises:
        UserError: the model's file is missing or damaged.
    """
    if not reports.all_licenses.is_dir():
        return None
    return LicenseRecord.read(reports.licenses(model), LICENSES_AGAIN).ancestors
