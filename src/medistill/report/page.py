"""The report: one page for a sceptical reader, self-contained and offline, light or dark, wide or narrow."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from medistill.report.content import Content
from medistill.report.html import render_page
from medistill.report.sections import (
    abstention,
    data,
    decisions,
    differences,
    gate,
    labels,
    learning,
    licenses,
    localisation,
    method,
    models,
    operating,
    recalibration,
    reliability,
    roc,
    stress,
    subgroups,
    summary,
)

SECTIONS = {
    "Gate": gate,
    "Models": models,
    "Differences": differences,
    "Labels": labels,
    "Operating points": operating,
    "Subgroups": subgroups,
    "ROC and precision–recall": roc,
    "Reliability": reliability,
    "Calibration by validation": recalibration,
    "Net benefit": decisions,
    "Abstention": abstention,
    "Shifts": stress,
    "Learning curves": learning,
    "Localisation": localisation,
    "Data": data,
    "Licences": licenses,
    "Method": method,
}
"""Sections by title, in the order of the page; each is a module `KEY.py` with a template `KEY.html.jinja`."""


@dataclass(frozen=True)
class _Section:
    title: str
    module: ModuleType
    content: Content

    @property
    def key(self) -> str:
        return self.module.__name__.rpartition(".")[2]

    @property
    def template(self) -> str:
        return f"sections/{self.key}.html.jinja"

    @property
    def data(self) -> Any:
        return self.module.build(self.content)


def render(content: Content) -> str:
    """The page as HTML text."""
    return render_page(
        "report",
        title=f"medistill: {content.dataset.name}",
        summary=summary.build(content),
        sections=[_Section(title, module, content) for title, module in SECTIONS.items()],
    )
