"""How the 1,000 X-rays were sampled, and what students gain on them: finding or none, and one finding from another.

A macro AUROC says little if all positives of all labels are among the images of one of them: most of each label's AUROC
then measures that common label. So the pairs of images that an AUROC ranks are divided into those within the images of
the common label, and those of such an image and one without any label. A student's gain is compared with what can be
gained without a teacher.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.scores import Interval, Results, with_seeds
from benchmarks.study import open_xrays
from benchmarks.tables import averaged, interval, line, verdict
from medistill.audit.command import SIZE
from medistill.audit.findings import SHORTCUT, audit
from medistill.audit.shortcuts import CUES
from medistill.metrics.eligibility import ineligibility

BOTH = "system_b"
"""The recipe by which both students are taught."""


TITLES = {"phantom": "phantom", "xrays": "X-rays"}


@dataclass(frozen=True)
class Sample:
    """The tested images, divided by the common label: the one that all positive images have.

    Attributes:
        results: all figures of these images.
        common: the label's column.
    """

    results: Results
    common: int

    @classmethod
    def of(cls, results: Results) -> "Sample | None":
        """None if no label contains all positives of the others."""
        positive = results.truth.split.targets == 1
        for k in range(positive.shape[1]):
            if not positive[~positive[:, k]].any():
                return cls(results, k)
        return None

    @property
    def name(self) -> str:
        """The common label."""
        return self.results.truth.split.labels[self.common]

    @cached_property
    def inside(self) -> NDArray:
        """Images with the common label, (N,) of bool; all others have no label at all."""
        return self.results.truth.split.targets[:, self.common] == 1

    @cached_property
    def others(self) -> list[int]:
        """Columns of the other labels that are eligible, also among the images with the common one."""
        split = self.results.truth.split
        left = [k for k in split.columns() if k != self.common]
        own = [ineligibility(split.targets[self.inside, k], split.groups[self.inside]) for k in left]
        return [k for k, reason in zip(left, own, strict=True) if not reason]

    def everywhere(self, logits: NDArray) -> NDArray:
        """Macro AUROC (1 + R,) over all eligible labels."""
        return self.results.truth.auroc(logits, self.results.truth.split.columns())

    def within(self, logits: NDArray) -> NDArray:
        """Mean AUROC (1 + R,) over the other labels, among the images with the common one."""
        return self.results.truth.auroc(logits, self.others, rows=self.inside)

    def between(self, logits: NDArray) -> NDArray:
        """Mean AUROC (1 + R,) over the other labels, positives against images without any label."""
        targets = self.results.truth.split.targets
        against = np.where((targets == 1) | ~self.inside[:, None], targets, np.nan)
        return self.results.truth.auroc(logits, self.others, targets=against)

    def measures(self) -> dict[str, Callable[[NDArray], NDArray]]:
        """The three figures by the head of their column."""
        few = len(self.others)
        return {
            f"all {len(self.results.truth.split.eligible)} labels": self.everywhere,
            f"within {self.name}, {few} labels": self.within,
            f"{self.name} against no finding, {few} labels": self.between,
        }

    def standardised(self, logits: NDArray) -> NDArray:
        """Logits (N, L) of mean 0 and standard deviation 1 in each fold, so that those of two labels can be added."""
        parts = logits.astype(np.float64)
        for fold in np.unique(self.results.truth.folds):
            here = self.results.truth.folds == fold
            parts[here] = (parts[here] - parts[here].mean(axis=0)) / parts[here].std(axis=0)
        return parts

    def blended(self, logits: NDArray) -> NDArray:
        """Each logit plus that of the common label, both standardised, (N, L)."""
        parts = self.standardised(logits)
        return parts + parts[:, [self.common]]

    def single(self, logits: NDArray) -> NDArray:
        """The common label's logit in the place of every other, (N, L)."""
        return np.repeat(logits[:, [self.common]], logits.shape[1], axis=1)

    def alternatives(self, student: str) -> dict[str, list[NDArray]]:
        """Logits (N, L) that can be had from the baseline's seeds without a teacher, by method."""
        own = self.results.students[student][self.results.baseline(student)].logits
        return {
            f"{len(own)} seeds averaged": [own.mean(axis=0)],
            f"each logit + that of {self.name}": [self.blended(logits) for logits in own],
            f"that of {self.name} for all labels": [self.single(logits) for logits in own],
        }


def mean_of(measure: Callable[[NDArray], NDArray], models: Sequence[NDArray]) -> NDArray:
    """A figure's mean over models, (1 + R,)."""
    return np.mean([measure(logits) for logits in models], axis=0)


def halves(sample: Sample) -> str:
    """The table of each student's figures and its gains over its baseline, for all pairs and for each kind."""
    measures, results = sample.measures(), sample.results
    heads = ["model", "taught by", *(cell for name in measures for cell in (name, "difference to the baseline"))]
    rows = [line(heads), line(["---"] * len(heads))]
    for student, measured in results.students.items():
        baseline = results.baseline(student)
        models = {
            baseline: measured[baseline].logits,
            **{name: measured[name].logits for name in results.taught(student)},
        }
        models |= {f"{baseline}: {name}": logits for name, logits in sample.alternatives(student).items()}
        base: list[NDArray] = []
        for name, logits in models.items():
            values = [mean_of(measure, logits) for measure in measures.values()]
            base = base or values
            cells = [f"{student}, {name}", ", ".join(results.plan.recipes[name].teachers) if name in measured else ""]
            for own, other in zip(values, base, strict=True):
                cells += [interval(own), "" if own is other else interval(own - other, sign=True)]
            rows.append(line(cells))
    return "\n".join(rows)


# Texts


def composition(sample: Sample) -> str:
    """How many images have the common label, others or none."""
    inside, positive = sample.inside, sample.results.truth.split.targets == 1
    return (
        f"**{inside.sum()} of the {len(inside):,} images have {sample.name}, {(~positive.any(axis=1)).sum()} no "
        f"finding, and every positive of the other {positive.shape[1] - 1} labels is among those with {sample.name}.**"
    )


def positives(sample: Sample) -> str:
    """How many positives each label has."""
    counts = (sample.results.truth.split.targets == 1).sum(axis=0)
    named = zip(sample.results.truth.split.labels, counts, strict=True)
    return f"Positives: {', '.join(f'{label} {count}' for label, count in named)}."


def one_question(sample: Sample) -> str:
    """Why the mean over labels measures little more than one of them."""
    results, count = sample.results, len(sample.results.truth.split.eligible)
    student = next(iter(results.students))
    base = results.students[student][results.baseline(student)]
    one = mean_of(sample.everywhere, [sample.single(logits) for logits in base.logits])
    return (
        f"So the mean over {count} labels asks for the most part one question, {sample.name} or no finding, {count} "
        f"times: the {sample.name} logit of {student}'s baseline, taken for every label, has {one[0]:.3f} where its "
        f"{count} logits have {base.macro[:, 0].mean():.3f}."
    )


def warnings(xrays: Path) -> str:
    """The warnings of `medistill check` about shortcuts: labels that can be predicted without seeing the finding."""
    table = pd.DataFrame(audit(open_xrays(xrays, SIZE)).shortcuts)
    said = []
    for cue, rows in table[table["lower"] > SHORTCUT].groupby("cue", sort=False):
        own = [f"{row.label} {row.auroc:.2f} [{row.lower:.2f}, {row.upper:.2f}]" for row in rows.itertuples()]
        said.append(f"{CUES[cue]}: AUROC of {', '.join(own)}")
    told = "; and from ".join(said)
    return f"`medistill check` warns that labels can be predicted from a cue alone, {told}." if said else ""


@dataclass(frozen=True)
class Row:
    """The students' gains in one figure.

    Attributes:
        title: of the row.
        gains: by student, (1 + R,).
        bounds: by student, an interval that holds other seeds as well as other patients.
    """

    title: str
    gains: dict[str, NDArray]
    bounds: dict[str, Interval | None] = field(default_factory=dict)

    def lines(self, students: Sequence[str]) -> list[str]:
        """As Markdown, one cell per student; the wider bounds stand below."""
        cells = [interval(self.gains[name], sign=True) if name in self.gains else "" for name in students]
        wider = [f"[{own[0]:+.3f}, {own[1]:+.3f}]" if (own := self.bounds.get(name)) else "" for name in students]
        return [line([self.title, *cells])] + ([line(["… patients and seeds", *wider])] if any(wider) else [])

    def shown(self) -> str:
        """What all the intervals show, to be put after `a gain`."""
        gained = [name for name, values in self.gains.items() if verdict(values) == "a gain"]
        if len(gained) == len(self.gains):
            return "was shown"
        return f"was shown for {' and '.join(gained)} alone" if gained else "was not shown"


def recipe_row(results: Results, recipe: str) -> Row:
    """A recipe's gain in macro AUROC, for each student that has it."""
    students = [student for student in results.students if recipe in results.taught(student)]
    gains = {student: results.gain(student, recipe) for student in students}
    bounds = {student: with_seeds(gain, len(results.truth.split.counts)) for student, gain in gains.items()}
    more = f" and {results.plan.unlabelled:,} images more" if results.plan.recipes[recipe].unlabelled else ""
    title = f"{TITLES[results.plan.data]}: `{recipe}`{more}, all {len(results.truth.split.eligible)} labels"
    return Row(title, {student: gain.mean(axis=0) for student, gain in gains.items()}, bounds)


def averaged_row(results: Results) -> Row:
    """The gain in macro AUROC from averaging the baseline's seeds, without a teacher."""
    gains, seeds = {}, 0
    for student, measured in results.students.items():
        mean = averaged(results, student)
        if mean is not None:
            base = measured[results.baseline(student)]
            gains[student], seeds = mean - base.macro.mean(axis=0), len(base.seeds)
    title = f"{TITLES[results.plan.data]}: no teacher, {seeds} baselines averaged ({seeds} times the cost)"
    return Row(f"{title}, all {len(results.truth.split.eligible)} labels", gains)


def divided_row(sample: Sample, title: str, measure: Callable[[NDArray], NDArray]) -> Row:
    """The gain of `BOTH` in a figure of some of the pairs."""
    results, gains = sample.results, {}
    for student in results.students:
        if BOTH in results.taught(student):
            own, base = (results.students[student][name].logits for name in (BOTH, results.baseline(student)))
            gains[student] = mean_of(measure, own) - mean_of(measure, base)
    return Row(f"{TITLES[results.plan.data]}: `{BOTH}`, {title}, {len(sample.others)} labels", gains)


def blended_row(sample: Sample) -> Row:
    """The gain from adding the common label's logit to each, without a teacher."""
    results, gains = sample.results, {}
    for student, measured in results.students.items():
        base = measured[results.baseline(student)]
        mixed = mean_of(sample.everywhere, [sample.blended(logits) for logits in base.logits])
        gains[student] = mixed - base.macro.mean(axis=0)
    title = f"no teacher, each logit + that of {sample.name}"
    return Row(f"{TITLES[results.plan.data]}: {title}, all {len(results.truth.split.eligible)} labels", gains)


def firm(rows: Sequence[Row]) -> str:
    """Students and rows whose gain is above zero for other seeds as well as other patients."""
    every = [(row, name, bounds) for row in rows for name, bounds in row.bounds.items()]
    named = [f"{name} ({row.title.rpartition(', ')[0]})" for row, name, bounds in every if bounds and bounds[0] > 0]
    return " and ".join(named) or "nothing"


def summary(sample: Sample, phantom: Results) -> tuple[str, str]:
    """A table of the students' gains on the X-rays and on the phantom, and a text on those on the X-rays."""
    whole, mean = recipe_row(sample.results, BOTH), averaged_row(sample.results)
    between = divided_row(sample, f"{sample.name} against no finding", sample.between)
    within = divided_row(sample, f"within {sample.name}", sample.within)
    rows = [whole, between, within, mean, blended_row(sample)]
    drawn = [recipe_row(phantom, recipe) for recipe in (BOTH, "unlabelled")]
    rows += [*drawn, averaged_row(phantom)]
    students = list(sample.results.students)
    lines = [line(["macro AUROC minus that of the baseline", *students]), line(["---"] * (1 + len(students)))]
    lines += [text for row in rows if row.gains for text in row.lines(students)]
    beyond = Row("", {student: gain - mean.gains[student] for student, gain in whole.gains.items()})
    rest = [f"{interval(gain, sign=True)} ({student})" for student, gain in beyond.gains.items()]
    says = (
        f"Between the two kinds of image a gain by a teacher {between.shown()}; within {sample.name}, in telling one "
        f"finding from another, it {within.shown()}. Beyond what averaged baselines gain, which have no teacher, it "
        f"{beyond.shown()}: `{BOTH}` minus these is {' and '.join(rest)}. Of the rows below, with the spread over "
        f"seeds counted, what stays above zero is {firm([whole, *drawn])}."
    )
    return "\n".join(lines), says
