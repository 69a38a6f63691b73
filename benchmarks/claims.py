"""The tables of five seeds: what each row gains, by intervals over patients and seeds, and what may be said of it.

Of a student's taught rows validation chooses one, and the interval of that one is the claim; it is compared with the
baseline that is best on validation among as many as there are listed, all with the same start. A gain is put down to
what the teacher knows only as far as it is more than `shuffled`, `self`, and averaged baselines gain.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.crossed import Crossed, cross
from benchmarks.plans import FIRST_ROWS, Plan, Row
from benchmarks.scores import Results, Scores, Truth
from benchmarks.sets import SETS, ImageSet
from benchmarks.tables import interval, line
from medistill.metrics.intervals import holm


@dataclass(frozen=True)
class Claims:
    """One student on one data set.

    Attributes:
        results: all figures of the data set.
        student: its name.
    """

    results: Results
    student: str

    @property
    def plan(self) -> Plan:
        """Of the data set."""
        return self.results.plan

    @property
    def about(self) -> ImageSet:
        """The data set."""
        return SETS[self.plan.data]

    @property
    def rows(self) -> dict[str, Row]:
        """The student's rows of which all seeds are trained, by name."""
        measured = self.results.students.get(self.student, {})
        every = self.plan.students[self.student]
        return {name: row for name, row in every.items() if name in measured and self.is_whole(measured[name])}

    def is_whole(self, scores: Scores) -> bool:
        """Whether all seeds are trained."""
        return len(scores.seeds) == len(self.plan.seeds)

    def scores(self, name: str) -> Scores:
        """The figures of a row."""
        return self.results.students[self.student][name]

    def figure(self, scores: Scores) -> NDArray:
        """The figure by which rows are compared, by seed, (S, 1 + R)."""
        return judged(self.about, scores)

    def val(self, name: str) -> float:
        """The same figure on validation, the mean over seeds."""
        if self.about.judged == "within":
            return self.scores(name).val_within(self.results.truth.columns_within)
        return self.scores(name).val

    def among(self, kind: str, start: str) -> list[str]:
        """The rows of a kind and a start."""
        return [name for name, row in self.rows.items() if (row.kind, row.start) == (kind, start)]

    def baseline(self, start: str) -> str | None:
        """The row without a teacher that is best on validation, among those of a start; None where there is none."""
        return max(self.among("baseline", start), key=self.val, default=None)

    @property
    def start(self) -> str:
        """The start of the rows that are compared."""
        return self.plan.students[self.student]["baseline"].start

    @property
    def taught(self) -> list[str]:
        """The rows among which validation chooses."""
        return self.among("taught", self.start)

    @property
    def chosen(self) -> str | None:
        """The taught row that is best on validation."""
        return max(self.taught, key=self.val, default=None)

    def minus(self, name: str, other: str) -> Crossed:
        """A row's figure minus another's, seed by seed."""
        difference = self.figure(self.scores(name)) - self.figure(self.scores(other))
        return cross(difference, len(self.results.truth.split.counts))

    @cached_property
    def gains(self) -> dict[str, Crossed]:
        """Of each row but the baselines, the difference from the best baseline of its own start."""
        found = {}
        for name, row in self.rows.items():
            base = self.baseline(row.start)
            if base is not None and base != name:
                found[name] = self.minus(name, base)
        return found

    @cached_property
    def adjusted(self) -> dict[str, float | None]:
        """p of each taught row, adjusted for their number (Holm)."""
        return dict(zip(self.taught, holm([self.gains[name].p for name in self.taught]), strict=True))

    def lead(self, teacher: str) -> Crossed | None:
        """How far a teacher is ahead of the best baseline, seed by seed; None if it has fewer seeds."""
        scores, base = self.results.teachers.get(teacher), self.baseline(self.start)
        if scores is None or base is None or not self.is_whole(scores):
            return None
        return cross(self.figure(scores) - self.figure(self.scores(base)), len(self.results.truth.split.counts))

    def averaged(self, count: int) -> Crossed | None:
        """The gain of the mean of `count` seeds of the best baseline over one of them; None below two."""
        base = self.baseline(self.start)
        if base is None or count < 2:
            return None
        scores = self.scores(base)
        several = np.stack([np.roll(scores.logits, -k, axis=0) for k in range(count)]).mean(axis=0)
        own = np.array([measured(self.about, self.results.truth, logits) for logits in several])
        return cross(own - self.figure(scores), len(self.results.truth.split.counts))


def judged(about: ImageSet, scores: Scores) -> NDArray:
    """The figure by which rows are compared, by seed, (S, 1 + R)."""
    if about.judged == "plain":
        return scores.macro
    if scores.within is None:
        raise ValueError(f"{about.title} has no strata")
    return scores.within


def measured(about: ImageSet, truth: Truth, logits: NDArray) -> NDArray:
    """The same of other logits, (1 + R,)."""
    return truth.within(logits) if about.judged == "within" else truth.auroc(logits, truth.split.columns())


# Tables


def header(about: ImageSet, truth: Truth) -> list[str]:
    """Both lines of the table's head."""
    plain = f"{about.plain}, {len(truth.split.eligible)} labels"
    within = f"AUROC within {about.within}, {len(truth.columns_within)} labels"
    named = [within, plain] if about.judged == "within" else [plain, *([within] if about.strata else [])]
    heads = ["model", "start", "taught by", "seeds", "the same on validation", *named, "over seeds"]
    heads += ["minus the better baseline of the same start", "p, Holm"]
    return [line(heads), line(["---"] * len(heads))]


def figures(about: ImageSet, scores: Scores) -> list[str]:
    """The cells of the test figures, with intervals over patients, and the first one's range over seeds."""
    own = judged(about, scores)
    other = {"plain": scores.within, "within": scores.macro}[about.judged]
    cells = [interval(values.mean(axis=0)) for values in (own, other) if values is not None]
    return [*cells, f"{own[:, 0].min():.3f} … {own[:, 0].max():.3f}"]


def taught_by(row: Row) -> str:
    """Its teachers, of an ensemble the number of its members."""
    counts = Counter(name.partition(".")[0] for name in row.recipe.teachers)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())


def rows(claims: Claims) -> list[str]:
    """A student's rows."""
    about, lines = claims.about, []
    for name, row in claims.rows.items():
        scores = claims.scores(name)
        by = {"shuffled": " (shuffled)", "self": " (itself)"}.get(row.control, "")
        gain, p = claims.gains.get(name), claims.adjusted.get(name)
        cells = [f"{claims.student}, {name}", row.start, taught_by(row) + by, str(len(scores.seeds))]
        cells += [f"{claims.val(name):.3f}", *figures(about, scores)]
        lines.append(line([*cells, gain.text() if gain else "", "" if p is None else f"{p:.3f}"]))
    return lines


def teacher_rows(results: Results) -> list[str]:
    """The teachers' rows."""
    about, lines = SETS[results.plan.data], []
    for name, scores in results.teachers.items():
        val = scores.val_within(results.truth.columns_within) if about.judged == "within" else scores.val
        cells = [name, scores.outcomes[0].initialisation, "", str(len(scores.seeds)), f"{val:.3f}"]
        lines.append(line([*cells, *figures(about, scores), "", ""]))
    return lines


# Sentences


def shows(difference: Crossed) -> str:
    """What an interval shows, in words."""
    lower, upper = difference.bounds
    return "a gain" if lower > 0 else "a loss" if upper < 0 else "no difference shown"


def sentences(claims: Claims) -> list[str]:
    """What a student's rows say: the start, the claim, the share of the lead, and the controls."""
    base, chosen = claims.baseline(claims.start), claims.chosen
    if base is None or chosen is None:
        return []
    attempts = len(claims.among("baseline", claims.start))
    says = [f"Best on validation of {_many(attempts, 'baseline')} is `{base}`."]
    if claims.start != "own" and (random := claims.baseline("own")):
        start = claims.minus(base, random)
        says.append(f"The {claims.start} start instead of the random one (`{random}`): {start.text()}, {shows(start)}.")
    gain, above = claims.gains[chosen], [name for name in claims.taught if (claims.adjusted[name] or 1) < 0.05]
    named = ", ".join(f"`{name}`" for name in above) or "none"
    says.append(
        f"**The claim**: of {_many(len(claims.taught), 'taught row')} validation chooses `{chosen}`, {gain.text()}, "
        f"{shows(gain)}. With Holm's p below 0.05: {named}."
    )
    says += [*_share(claims, chosen), *_controls(claims, chosen)]
    return [f"**{claims.student}.** {' '.join(says)}"]


def _share(claims: Claims, chosen: str) -> list[str]:
    """The share of the best teacher's lead, among those that teach in the chosen row."""
    teachers = claims.plan.students[claims.student][chosen].recipe.teachers
    leads = {name: claims.lead(name) for name in (name.partition(".")[0] for name in teachers)}
    known = {name: lead for name, lead in leads.items() if lead is not None}
    if not known:
        return []
    best = max(known, key=lambda name: known[name].estimate)
    lead = known[best]
    text = f"The lead of {best} over that baseline is {lead.text()}"
    if lead.bounds[0] <= 0:
        return [f"{text}: there is no lead to win back."]
    return [f"{text}; the student wins back {claims.gains[chosen].over(lead)} of it."]


def _controls(claims: Claims, chosen: str) -> list[str]:
    """The controls' own gains, and by how much the chosen row is above each."""
    controls = claims.among("control", claims.start)
    texts = [
        f"`{name}` {claims.gains[name].text()}, and `{chosen}` minus it {claims.minus(chosen, name).text()}"
        for name in controls
    ]
    teachers = len(claims.plan.students[claims.student][chosen].recipe.teachers)
    for count in (teachers, teachers + 1):  # as many networks as its teachers, and as these and itself
        mean = claims.averaged(count)
        texts += [f"no teacher, but the mean of {count} baselines, {mean.text()}"] if mean is not None else []
    return [f"Controls, minus the same baseline: {'; '.join(texts)}."] if texts else []


def _many(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def page(results: Results) -> str | None:
    """A data set's table with its sentences; None while the first student's most telling rows are not complete."""
    students = [Claims(results, student) for student in results.plan.students]
    if not set(FIRST_ROWS) <= set(students[0].rows):
        return None
    about, truth = SETS[results.plan.data], results.truth
    lines = [*header(about, truth), *teacher_rows(results), *(text for one in students for text in rows(one))]
    says = [f"{text}\n" for one in students for text in sentences(one)]
    return "\n".join([*lines, "", *says, facts(results, students)])


def short(results: Results) -> str | None:
    """One line for the first student: what its start gains, and what its teacher; None where `page` is."""
    claims = Claims(results, next(iter(results.plan.students)))
    if not set(FIRST_ROWS) <= set(claims.rows):
        return None
    about, split, chosen, base = claims.about, results.truth.split, claims.chosen, claims.baseline(claims.start)
    random = claims.baseline("own")
    assert chosen is not None
    assert base is not None
    assert random is not None
    gain = claims.gains[chosen]
    figure = f"AUROC within {about.within}" if about.judged == "within" else "macro AUROC"
    return (
        f"- {about.title}, {len(split.targets):,} images of {len(split.counts):,} patients to test, {figure} of "
        f"{claims.student}: a start from a part of EfficientNet-Lite2's weights minus one from nothing "
        f"{claims.minus(base, random).text()}; taught (`{chosen}`) minus not taught, from the same start, "
        f"{gain.text()}, {shows(gain)}."
    )


def facts(results: Results, students: Sequence[Claims]) -> str:
    """The tested images, the labels that enter the means, the budget, and the missing rows."""
    plan, truth, about = results.plan, results.truth, SETS[results.plan.data]
    where = f"{plan.folds}-fold cross-validation by patient" if plan.folds > 1 else "one split by patient or group"
    skipped = "; ".join(f"{label} ({reason})" for label, reason in truth.split.skipped.items()) or "none"
    names = [truth.split.labels[k] for k in truth.columns_within]
    within = f" Within {about.within}: {', '.join(names) or 'no label is eligible'}." if about.strata else ""
    measured = [*results.teachers.values(), *(one.scores(name) for one in students for name in one.rows)]
    models = {outcome.settings: outcome for scores in measured for outcome in scores.outcomes}.values()
    absent = [f"{one.student}, {name}" for one in students for name in one.plan.students[one.student]]
    absent = [name for name in absent if name not in {f"{one.student}, {row}" for one in students for row in one.rows}]
    return (
        f"{len(truth.split.targets):,} images of {len(truth.split.counts):,} patients to test ({where}). Left out of "
        f"the mean over all pairs: {skipped}.{within} Epochs: "
        f"{', '.join(f'{name} {count}' for name, count in plan.epochs.items())}. Views that are taught: {plan.views}. "
        f"{len(models)} models, trained for {sum(one.seconds for one in models) / 3600:.1f} hours by the clock. "
        f"Not trained yet: {'; '.join(absent) or 'nothing'}."
    )
