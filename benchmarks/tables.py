"""The tables of `benchmarks.results` and the sentences below them, as Markdown."""

from numpy.typing import NDArray

from benchmarks.outcomes import Outcome
from benchmarks.plans import RECIPES, Plan
from benchmarks.scores import Results, Scores, adjusted, lead, paired, with_seeds
from benchmarks.study import TEACHERS
from medistill.metrics.intervals import summarise

LEVEL = 0.05

SHORT = (0, 1, 2, 3, 4, 5, 8, 10, 13)
"""Columns of the README's table."""


def interval(values: NDArray, *, sign: bool = False, share: bool = False) -> str:
    """A figure with its 95 % interval, as text.

    Args:
        values: (1 + R,), on the data and in each resample.
        sign: the figure is a difference.
        share: the figure is a share, written in percent.
    """
    figure = summarise(values, difference=sign or share)
    form = "{:.0%}" if share else "{:+.3f}" if sign else "{:.3f}"
    text = form.format(figure.estimate)
    return text if figure.lower is None else f"{text} [{form.format(figure.lower)}, {form.format(figure.upper)}]"


def verdict(differences: NDArray) -> str:
    """What the interval of a difference (1 + R,) shows, in words."""
    figure = summarise(differences, difference=True)
    if figure.lower is None or figure.lower <= 0 <= figure.upper:
        return "no difference shown"
    return "a gain" if figure.lower > 0 else "a loss"


def header(results: Results) -> list[str]:
    """Both lines of the table's head."""
    on_val = sorted({len(columns) for columns in results.truth.val_labels})
    val, test = " or ".join(map(str, on_val)), len(results.truth.split.eligible)
    heads = [
        *("model", "taught by", "initialisation", "parameters", "MACs", "seeds"),
        *(f"val macro AUROC, {val} labels", f"test, the same {val} labels", f"test macro AUROC, {test} labels"),
        *(
            "over seeds",
            "difference to the better baseline, not adjusted",
            "over seeds",
            "patients and seeds",
            "p, Holm",
        ),
    ]
    right = ("parameters", "MACs", "seeds", "p, Holm", *heads[6:8])
    return [line(heads), line(["---:" if head in right else "---" for head in heads])]


def line(cells: list[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def shortened(row: str) -> str:
    """A row of the README's table."""
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    return line([cells[column] for column in SHORT])


def row(
    title: str, scores: Scores, taught_by: str = "", base: Scores | None = None, p: float | None = None, groups: int = 0
) -> str:
    """One row of the table, with differences from `base`; `groups` is the number of patients."""
    single, any_one = scores.macro[:, 0], scores.outcomes[0]
    cells = [
        title,
        taught_by,
        any_one.initialisation,
        *_size(any_one),
        str(len(scores.seeds)),
        f"{scores.val:.3f}",
        f"{scores.on_val_labels:.3f}",
        interval(scores.macro.mean(axis=0)),
        f"{single.min():.3f} … {single.max():.3f}",
    ]
    if base is None:
        return line([*cells, "", "", "", ""])
    differences = paired(scores, base)
    wider = with_seeds(differences, groups)
    cells += [
        interval(differences.mean(axis=0), sign=True),
        f"{differences[:, 0].min():+.3f} … {differences[:, 0].max():+.3f}",
        f"[{wider[0]:+.3f}, {wider[1]:+.3f}]" if wider else "",
        "" if p is None else f"{p:.3f}",
    ]
    return line(cells)


def _size(outcome: Outcome, times: int = 1) -> tuple[str, str]:
    return f"{times * outcome.params / 1e6:.2f} M", f"{times * outcome.macs / 1e6:.0f} M"


def averaged_row(results: Results, student: str) -> str | None:
    """The row of the averaged seeds of the baseline: the gain without a teacher, at a multiple of the cost."""
    values = averaged(results, student)
    if values is None:
        return None
    baseline = results.baseline(student)
    base = results.students[student][baseline]
    title, seeds = f"{student}, {baseline}, seeds averaged", len(base.seeds)
    cells = [title, "", base.outcomes[0].initialisation, *_size(base.outcomes[0], seeds), f"{seeds} as one", "", ""]
    difference = interval(values - base.macro.mean(axis=0), sign=True)
    return line([*cells, interval(values), "", difference, "", "", ""])


def averaged(results: Results, student: str) -> NDArray | None:
    """Macro AUROC (1 + R,) of the mean logits of the baseline's seeds; None with fewer than two seeds."""
    base = results.students[student][results.baseline(student)]
    if len(base.seeds) < 2:
        return None
    return results.truth.auroc(base.logits.mean(axis=0), results.truth.split.columns())


def student_rows(results: Results, student: str) -> list[str]:
    """A student's rows; the baseline is chosen on validation."""
    measured = results.students[student]
    base, p_values = measured[results.baseline(student)], adjusted(results, student)
    rows = []
    for name, scores in measured.items():
        taught_by = ", ".join(results.plan.recipes[name].teachers)
        other = None if scores is base else base
        groups = len(results.truth.split.counts)
        rows.append(row(f"{student}, {name}", scores, taught_by, other, p_values.get(name), groups))
    return [*rows, *filter(None, [averaged_row(results, student)])]


# Sentences


def student_text(results: Results, student: str) -> str:
    """A student's rows in words; the baseline and the recipe quoted are chosen on validation."""
    measured, taught = results.students[student], results.taught(student)
    if not taught:
        return ""
    says = [count_above(results, student)]
    for unlabelled in (False, True):
        names = [name for name in taught if results.plan.recipes[name].unlabelled == unlabelled]
        most = max((len(measured[name].seeds) for name in names), default=0)
        names = [name for name in names if len(measured[name].seeds) == most]
        if names:
            chosen = max(names, key=lambda name: measured[name].val)
            who = f"`{chosen}`" + (" (the best taught on validation)" if len(names) > 1 else "")
            who += ", which has seen more images than the baseline," if unlabelled else ""
            says.append(f"{who} {gain_text(results, student, chosen)}")
    return f"**{student}**, against `{results.baseline(student)}`: {' '.join(says)}"


def count_above(results: Results, student: str) -> str:
    """Which of a student's recipes are above its baseline, also after adjustment and with the spread over seeds."""
    taught, p_values, groups = results.taught(student), adjusted(results, student), len(results.truth.split.counts)
    gains = {name: results.gain(student, name) for name in taught}
    above = [name for name in taught if verdict(gains[name].mean(axis=0)) == "a gain"]
    bounds = {name: with_seeds(gains[name], groups) for name in above}
    wider = [name for name in above if bounds[name] and bounds[name][0] > 0]
    if len(taught) == 1:
        text = "its one recipe with a teacher has an interval above zero"
        if not above:
            return f"{text.replace(' an ', ' no ')}."
        return f"{text}, {'and' if wider else 'but not'} once the spread over seeds is counted."
    text = f"of {len(taught)} recipes with a teacher "
    if not above:
        return f"{text}none has an interval above zero."
    firm = [name for name in above if p_values[name] < LEVEL]
    return (
        f"{text}{len(above)} {'has' if len(above) == 1 else 'have'} an interval above zero ({_named(above)}); "
        f"still {_named(firm)} once adjusted for their number (Holm), and {_named(wider)} once the spread over seeds "
        "is counted."
    )


def _named(recipes: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in recipes) or "none"


def gain_text(results: Results, student: str, recipe: str) -> str:
    """A recipe's gain on test, the lead of its first teacher, and the gain as a share of this lead."""
    gain, teacher = results.gain(student, recipe), results.plan.recipes[recipe].teachers[0]
    text = f"is {interval(gain.mean(axis=0), sign=True)}"
    wider = with_seeds(gain, len(results.truth.split.counts))
    text += f", patients and seeds [{wider[0]:+.3f}, {wider[1]:+.3f}]" if wider else ""
    ahead = lead(results, student, teacher, results.plan.seeds[:1])  # the seed that taught
    if ahead is None:
        return f"{text}."
    text += f"; the lead of {teacher}, of the one seed that taught, is {interval(ahead, sign=True)}"
    if verdict(ahead) != "a gain":
        return f"{text}."
    text += f", and the gain {share_of(gain, ahead)} of it"
    mean = lead(results, student, teacher, results.plan.seeds)
    if mean is not None and verdict(mean) == "a gain":
        text += f" ({share_of(gain, mean)} of the lead of its {len(results.plan.seeds)} seeds' mean)"
    return f"{text}."


def share_of(gain: NDArray, ahead: NDArray) -> str:
    """A gain by seed (S, 1 + R) as a share of a lead (1 + R,), with the interval of the ratio."""
    return interval(gain.mean(axis=0) / ahead, share=True)


def table(results: Results) -> list[str]:
    """All rows of the table."""
    rows = [row(name, scores) for name, scores in results.teachers.items()]
    return rows + [text for student in results.students for text in student_rows(results, student)]


def page(results: Results) -> str | None:
    """A data set's table with its sentences; None if nothing is trained."""
    rows = table(results)
    if not rows:
        return None
    says = [text for student in results.students if (text := student_text(results, student))]
    return "\n".join([*header(results), *rows, "", *(f"{text}\n" for text in says), facts(results)])


def short_page(results: Results) -> str:
    """For the README: the sentences, and a short table, folded."""
    rows = [shortened(text) for text in (*header(results), *table(results))]
    says = [text for student in results.students if (text := student_text(results, student))]
    summary = "<details><summary>All recipes</summary>"
    return "\n\n".join([*says, summary, "\n".join(rows), "</details>"])


def facts(results: Results) -> str:
    """The tested images, the labels that enter the means, and the missing models."""
    plan, truth, split = results.plan, results.truth, results.truth.split
    skipped = "; ".join(f"{label} ({reason})" for label, reason in split.skipped.items()) or "none"
    where = f"{plan.folds}-fold cross-validation by patient" if plan.folds > 1 else "its own test split"
    complete = [*results.teachers.values(), *(scores for own in results.students.values() for scores in own.values())]
    models = {outcome.settings: outcome for scores in complete for outcome in scores.outcomes}.values()
    codes = sorted({outcome.code for outcome in models})
    missing = [f"{name} ({text})" for name in TEACHERS if (text := _absent(plan, results.teachers.get(name)))]
    for student in plan.students:
        measured = results.students.get(student, {})
        absent = {recipe: _absent(plan, measured.get(recipe)) for recipe in RECIPES[plan.data, student]}
        missing += [f"{student}, {recipe} ({text})" for recipe, text in absent.items() if text]
    on_val = [split.labels[k] for k in sorted(set().union(*truth.val_labels))]
    in_all = set.intersection(*map(set, truth.val_labels))
    some = [label for label in on_val if split.labels.index(label) not in in_all]
    several = f" (in each fold some of these; not everywhere {', '.join(some)})" if some else ""
    epochs = ", ".join(f"{name} {count}" for name, count in plan.epochs.items())
    return (
        f"{len(split.targets)} images of {len(split.counts)} patients to test ({where}), {plan.size} px. Mean over "
        f"{len(split.eligible)} labels; left out: {skipped}. On validation fewer labels are frequent enough: "
        f"{', '.join(on_val)}{several}. {len(models)} models, trained for "
        f"{sum(outcome.seconds for outcome in models) / 60:.0f} minutes of one core by code {', '.join(codes)}. "
        f"Missing: {'; '.join(missing) or 'nothing'}. Epochs: {epochs}. Views that are taught: {plan.views}."
    )


def _absent(plan: Plan, scores: Scores | None) -> str:
    """The incomplete seeds, as text."""
    seeds = [seed for seed in plan.seeds if scores is None or seed not in scores.seeds]
    return f"seed {', '.join(map(str, seeds))}" if seeds else ""
