"""The report: one page for a sceptical reader, self-contained and offline, light or dark, wide or narrow.

Everything that comes from data is escaped; the page has no script and its content policy forbids any.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from medistill.gate.rules import Verdict
from medistill.report import charts
from medistill.report.html import document, escape
from medistill.task import Task

MISSING = "–"
MAX_QUARANTINED = 50
"""Rows of the quarantine list on the page; the file has them all."""


@dataclass(frozen=True)
class Model:
    """What the page shows of one teacher or student.

    Attributes:
        name: its folder's name.
        config: its config.json.
        numbers: its entry in metrics.json.
        evaluation: its file in reports/evaluation/.
        roc: points (fpr, tpr) of the macro-average on test; empty where no label is eligible.
        history: rows of history.csv as text; empty where there is none.
        latency: its latency.json; None for a teacher, or where it was not exported.
        onnx_mb: size of model.onnx in 10^6 bytes, or None.
    """

    name: str
    config: Mapping[str, Any]
    numbers: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    roc: Sequence[tuple[float, float]]
    history: Sequence[Mapping[str, str]]
    latency: Mapping[str, Any] | None
    onnx_mb: float | None

    @property
    def role(self) -> str:
        """`teacher`, `baseline` or `distilled`."""
        if self.config["role"] == "teacher":
            return "teacher"
        return "distilled" if self.config.get("teachers") else "baseline"


@dataclass(frozen=True)
class Content:
    """What the page shows.

    Attributes:
        dataset: dataset.json.
        quarantine: (path, reason) of what was left out.
        validation: validation.json.
        models: teachers, then students.
        comparisons: rows of comparisons.csv; numbers are float or None.
        explain: reports/explain/metrics.json, or None.
        verdicts: the gate's.
        ranking: names of those that passed, best first.
    """

    dataset: Mapping[str, Any]
    quarantine: Sequence[tuple[str, str]]
    validation: Mapping[str, Any]
    models: Sequence[Model]
    comparisons: Sequence[Mapping[str, Any]]
    explain: Mapping[str, Any] | None
    verdicts: Sequence[Verdict]
    ranking: Sequence[str]


def style() -> str:
    """The CSS of the report and of what looks like it."""
    return resources.files("medistill.report").joinpath("page.css").read_text(encoding="utf-8")


def render(content: Content) -> str:
    """The page as HTML text."""
    sections: list[tuple[str, str, Callable[[Content], str]]] = [
        ("gate", "Gate", _gate),
        ("models", "Models", _models),
        ("differences", "Differences", _differences),
        ("labels", "Labels", _labels),
        ("roc", "ROC curves", _roc),
        ("learning", "Learning curves", _learning),
        ("localisation", "Localisation", _localisation),
        ("data", "Data", _data),
        ("method", "Method", _method),
    ]
    name = _text(content.dataset["name"])
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{make(content)}</section>' for key, title, make in sections)
    return document(
        f"medistill: {content.dataset['name']}",
        style(),
        f"<header><h1>Compact students of {name}</h1>{_summary(content)}<nav>{links}</nav></header>\n"
        f"<main>{body}</main>\n"
        "<footer><p><strong>Research use only, not a medical device.</strong></p></footer>\n",
    )


# ---------------------------------------------------------------- sections


def _summary(content: Content) -> str:
    counts = content.dataset["counts"]
    images = sum(split["images"] for split in counts.values())
    groups = sum(split["groups"] for split in counts.values())
    facts = (
        f"{images:,} images of {groups:,} groups (patients), {_task(content)}, "
        f"{content.dataset['image_size']} px. Research use only, not a medical device."
    )
    return f'<p class="soft">{facts}</p>{_headline(content)}'


def _exclusive(content: Content) -> bool:
    """Whether the labels are exclusive classes."""
    return Task(content.dataset["task"]).exclusive


def _task(content: Content) -> str:
    count = len(content.dataset["labels"])
    return f"{count} classes, one an image (multiclass)" if _exclusive(content) else f"{count} labels (multilabel)"


def _headline(content: Content) -> str:
    """The outcome in two or three sentences."""
    if not content.ranking:
        outcome = f"None of {len(content.verdicts)} students passes the gate"
        return f'<p class="notice bad">{outcome}; <a href="#gate">why</a>.</p>'
    first = next(model for model in content.models if model.name == content.ranking[0])
    test = first.numbers["test"]
    passed = f"{len(content.ranking)} of {len(content.verdicts)} students pass the gate. "
    sentence = (
        f"First in rank is <strong>{_text(first.name)}</strong> with {_millions(first.config['params'])} parameters: "
    )
    known = "macro_auroc" in test
    sentence += f"macro AUROC on test {_interval_of(test, 'macro_auroc')}" if known else "no label is eligible on test"
    for relation, words in (("teacher", "best teacher"), ("baseline", "baseline")):
        if f"difference_{relation}" in test:
            sentence += f", {_interval_of(test, f'difference_{relation}', signed=True)} against its {words}"
    if "accuracy" in test:
        sentence += f"; accuracy on test {_interval_of(test, 'accuracy')}"
    return f'<p class="notice good">{passed}{sentence.replace("its best", "the best")}.</p>'


def _gate(content: Content) -> str:
    rules = [rule.rule for rule in content.verdicts[0].rules] if content.verdicts else []
    rows, refusals = [], []
    for verdict in content.verdicts:
        cells = [_verdict(verdict.passed)]
        cells.append(str(content.ranking.index(verdict.model) + 1) if verdict.passed else MISSING)
        for rule in verdict.rules:
            value = _rule_number(rule.rule, rule.value)
            limit = _rule_number(rule.rule, rule.limit)
            sign = {"margin_teacher": "&gt;", "require_baseline": "≥"}.get(rule.rule, "≤")
            note = f"{sign} {limit}" if rule.limit is not None else _text(rule.reason)
            cells.append(f'<span title="{_text(rule.reason)}">{_mark(rule.passed)} {value}</span><small>{note}</small>')
        rows.append((_name(verdict.model), cells, ""))
        refusals += [
            f"<li><strong>{_text(verdict.model)}</strong>, {_text(reason)}.</li>" for reason in verdict.reasons
        ]
    intro = (
        "<p>Every student against every rule of <code>promote</code> in params.yaml. The gate reads validation figures "
        "only; test figures choose nothing. Rank: validation macro AUROC, and within 0.002 of the best fewer MACs "
        "first. The registry adds its own rules when <code>python -m pipeline promote</code> runs.</p>"
    )
    table = _table(["Student", "Verdict", "Rank", *map(_name, rules)], rows)
    return intro + table + (f"<h3>Why not</h3><ul>{''.join(refusals)}</ul>" if refusals else "")


def _models(content: Content) -> str:
    accuracies = {"Test accuracy": "accuracy", "Test balanced accuracy": "balanced_accuracy"}
    accuracies = accuracies if _exclusive(content) else {}
    heads = [
        "Model", "Role", "Network, initialisation", "Parameters, MACs", "Validation AUROC", "Test AUROC",
        "Test AUROC − baseline", "Test AUROC − best teacher", *accuracies, "Test AUPRC", "Test ECE",
        "Latency p50, p95; ONNX",
    ]  # fmt: skip
    rows = []
    for model in content.models:
        config, val, test = model.config, model.numbers["val"], model.numbers["test"]
        rows.append(
            (
                f'<a href="evaluation/{_text(model.name)}.json">{_name(model.name)}</a>',
                [
                    _role(model),
                    f"{_name(config['arch'])}{_initialisation(config['initialisation'])}",
                    f"{_millions(config['params'])}<small>{_millions(config['macs'])} MACs</small>",
                    _stacked(val, "macro_auroc"),
                    _stacked(test, "macro_auroc"),
                    _stacked(test, "difference_baseline", signed=True),
                    _stacked(test, "difference_teacher", signed=True),
                    *(_stacked(test, key) for key in accuracies.values()),
                    _stacked(test, "macro_auprc"),
                    _number(test.get("macro_ece")),
                    _runtime(model),
                ],
                "",
            )
        )
    notes = [
        "AUROC, AUPRC and ECE: macro means over eligible labels; brackets: 95 % intervals. Size, pretraining and "
        "distillation are separate effects: compare rows that differ in one of them.",
        _best_teacher_note(content),
        _eligible_note(content, "test"),
        _latency_note(content),
    ]
    lines = "".join(f'<p class="soft">{note}</p>' for note in notes)
    return _table(heads, rows, text={1}, wrap={2}) + lines + _cost(content)


def _cost(content: Content) -> str:
    """Quality against cost, the choice that this page is about."""
    dots = []
    for line, model in zip(_series(content, lambda _: []), content.models, strict=True):
        test = model.numbers["test"]
        if "macro_auroc" in test:
            bounds = (test.get("macro_auroc_lower"), test.get("macro_auroc_upper"))
            dots.append(
                charts.Dot(
                    line.name, model.config["macs"] / 1e6, test["macro_auroc"], *bounds, line.colour, line.dashed
                )
            )
    if not dots:
        return ""
    chart = charts.dot_chart(dots, "Test macro AUROC by MACs", "million MACs an image (log scale)", "test macro AUROC")
    caption = "Test macro AUROC with its interval, by cost; hollow: baseline; equal costs stand side by side"
    return f"<figure><figcaption>{caption}</figcaption>{chart}{charts.dot_legend(dots)}</figure>"


def _best_teacher_note(content: Content) -> str:
    teachers = [model for model in content.models if model.role == "teacher" and "macro_auroc" in model.numbers["val"]]
    if not teachers:
        return "Best teacher: none, since no label is eligible on validation."
    best = max(teachers, key=lambda model: model.numbers["val"]["macro_auroc"])
    return f"Best teacher, chosen on validation: {_text(best.name)}."


def _role(model: Model) -> str:
    teachers = ", ".join(map(str, model.config.get("teachers") or []))
    return f"{model.role}<small>by {_name(teachers)}</small>" if teachers else model.role


def _initialisation(text: str) -> str:
    """Where the weights came from in a word, and the file or package as a tooltip."""
    return f'<small title="{_text(text)}">{_text(text.split(" (")[0])}</small>'


def _runtime(model: Model) -> str:
    """Latency of the exported model over its size."""
    if model.latency is None:
        return MISSING
    latency = f"{_number(model.latency.get('p50_ms'), 1)}, {_number(model.latency.get('p95_ms'), 1)} ms"
    return f"{latency}<small>{_number(model.onnx_mb, 1)} MB</small>"


def _latency_note(content: Content) -> str:
    latency = next((model.latency for model in content.models if model.latency), None)
    if latency is None:
        return "Latency was not measured."
    where = f"{latency.get('runtime', 'ONNX Runtime')} {latency.get('version', '')} on {latency.get('cpu', 'this CPU')}"
    return _text(
        f"Latency: one image, {latency.get('runs', '?')} runs, {latency.get('threads', '?')} thread(s), {where}."
    )


def _differences(content: Content) -> str:
    if not content.comparisons:
        return '<p class="notice">No label is eligible, so nothing can be compared.</p>'
    intro = (
        "<p>Student minus reference in macro AUROC, paired: both models in every resample. An interval that holds 0 "
        "means that no difference was shown, not that there is none. Of many intervals some leave out 0 by chance: "
        "better or worse is what Holm's adjustment for all rows of a table leaves below 0.05.</p>"
    )
    folded = {"Validation, which the gate reads": _forest(content, "val")}
    if _exclusive(content):
        folded["Accuracy on test"] = _forest(content, "test", "accuracy")
        folded["Balanced accuracy on test"] = _forest(content, "test", "balanced_accuracy")
    folded["Per label on test, with Holm's adjustment"] = _label_differences(content)
    details = "".join(f"<details><summary>{title}</summary>{table}</details>" for title, table in folded.items())
    return f"{intro}<h3>Test</h3>{_forest(content, 'test')}{details}"


def _forest(content: Content, split: str, metric: str = "macro_auroc") -> str:
    chosen = [row for row in content.comparisons if row["split"] == split and row["metric"] == metric]
    if not chosen:
        return f'<p class="notice">No label is eligible on {split}.</p>'
    bounds = [row[key] for row in chosen for key in ("estimate", "lower", "upper") if row[key] is not None]
    scale = charts.ticks(min(0.0, *bounds), max(0.0, *bounds))
    rows = []
    for row in sorted(chosen, key=lambda row: row["relation"]):  # baselines first; the order within stays
        estimate, lower, upper = row["estimate"], row["lower"], row["upper"]
        plot = MISSING if estimate is None else charts.forest_interval(estimate, lower, upper, scale)
        minus = f"{_text(row['relation'])}<small>{_name(row['reference'])}</small>"
        cells = [minus, plot, _bracketed(estimate, lower, upper, True)]
        shown = _shown(lower, upper, row["p_holm"])
        rows.append((_name(row["model"]), [*cells, _p(row["p"]), _p(row["p_holm"]), shown], ""))
    heads = ["Student", "minus", charts.forest_axis(scale), "Difference", "p", "p, Holm", "In words"]
    return _table(heads, rows, text={1, 6}, plot={2})


def _shown(lower: float | None, upper: float | None, p_holm: float | None) -> str:
    """What an interval of a difference says, as one of several."""
    if lower is None or upper is None:
        return "no interval"
    if lower <= 0 <= upper:
        return "no difference shown"
    if p_holm is None or p_holm >= 0.05:
        return "no difference shown, once adjusted"
    return "better" if lower > 0 else "worse"


def _label_differences(content: Content) -> str:
    rows = [
        (
            _name(row["model"]),
            [
                f"{_text(row['relation'])} {_text(row['reference'])}",
                _text(row["metric"].removeprefix("label:")),
                _bracketed(row["estimate"], row["lower"], row["upper"], True),
                _p(row["p"]),
                _p(row["p_holm"]),
            ],
            "",
        )
        for row in content.comparisons
        if row["split"] == "test" and row["metric"].startswith("label:")
    ]
    return _table(["Student", "minus", "Label", "Difference in AUROC", "p", "p, Holm"], rows, text={1, 2})


def _labels(content: Content) -> str:
    return (
        f"<h3>AUROC on test</h3>{_label_table(content, 'test', 'auroc')}"
        f'<p class="soft">{_eligible_note(content, "test")}</p>'
        f"<details><summary>AUPRC on test</summary>{_label_table(content, 'test', 'auprc')}</details>"
        f"<details><summary>AUROC on validation</summary>{_label_table(content, 'val', 'auroc')}"
        f'<p class="soft">{_eligible_note(content, "val")}</p></details>'
    )


def _label_table(content: Content, split: str, metric: str) -> str:
    rows = []
    for label in content.dataset["labels"]:
        entries = [model.evaluation[split]["per_label"][label] for model in content.models]
        first = entries[0]
        positives = f"{first['positives']:,}<small>of {first['positive_groups']:,} groups</small>"
        prevalence = MISSING if first["prevalence"] is None else f"{100 * first['prevalence']:.1f} %"
        cells = [positives, prevalence, *(_stacked_estimate(entry[metric]) for entry in entries)]
        name = _text(label) + ("" if first["eligible"] else "<small>skipped</small>")
        rows.append((name, cells, "" if first["eligible"] else "skipped"))
    return _table(["Label", "Positives", "Prevalence", *(_name(model.name) for model in content.models)], rows)


def _eligible_note(content: Content, split: str) -> str:
    """Which labels a macro mean holds, and why others are left out."""
    figures = content.models[0].evaluation[split]
    skipped = "; ".join(f"{_text(label)} ({_text(reason)})" for label, reason in figures["skipped"].items())
    named = ", ".join(_text(label) for label in figures["labels"]) or "none"
    where = {"val": "validation"}.get(split, split)
    note = f"Macro means on {where} are over {len(figures['labels'])} eligible labels: {named}."
    return note + (f" Skipped: {skipped}." if skipped else "")


def _roc(content: Content) -> str:
    series = [line for line in _series(content, lambda model: model.roc) if line.points]
    if not series:
        return '<p class="notice">No label is eligible on test, so there is no macro-average curve.</p>'
    title = "Macro-average ROC on test"
    axes = ("false positive rate", "true positive rate")
    chart = charts.line_chart(series, title, *axes, x_range=(0, 1), y_range=(0, 1), height=424, diagonal=True)
    caption = "Test, mean true positive rate over eligible labels"
    return f"<figure><figcaption>{caption}</figcaption>{chart}</figure>{charts.legend(series)}"


def _learning(content: Content) -> str:
    figures, keys = [], None
    for column, title in (("val_macro_auroc", "Validation macro AUROC"), ("train_loss", "Training loss")):
        series = [line for line in _series(content, lambda model, c=column: _curve(model, c)) if line.points]
        if series:
            chart = charts.line_chart(series, f"{title} by epoch", "epoch", title, whole_x=True)
            figures.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
            keys = keys or charts.legend(series)
    if not figures:
        return '<p class="notice">No history.csv was found.</p>'
    note = "Losses of different recipes are different functions: compare their shape, not their height."
    return f'<div class="charts">{"".join(figures)}</div>{keys}<p class="soft">{note}</p>'


def _curve(model: Model, column: str) -> list[tuple[float, float]]:
    """(epoch, value) of one column of the history, without gaps."""
    points = ((_parse(row.get("epoch")), _parse(row.get(column))) for row in model.history)
    return [(epoch, value) for epoch, value in points if epoch is not None and value is not None]


def _series(content: Content, points: Callable[[Model], Sequence[tuple[float, float]]]) -> list[charts.Series]:
    """A line a model: a colour a network, dashed for baselines."""
    families = list(dict.fromkeys(model.config.get("student") or model.name for model in content.models))
    return [
        charts.Series(
            f"{model.name} (teacher)" if model.role == "teacher" else model.name,
            points(model),
            families.index(model.config.get("student") or model.name) % charts.COLOURS,
            dashed=model.role == "baseline",
        )
        for model in content.models
    ]


def _localisation(content: Content) -> str:
    if content.explain is None:
        return '<p class="notice">Not measured: reports/explain/metrics.json is missing.</p>'
    rows = []
    for model in content.models:
        entry = content.explain.get(model.name)
        if entry is None:
            rows.append((_name(model.name), [MISSING] * 7, ""))
            continue
        size = "×".join(map(str, entry.get("map_size") or [])) or MISSING
        agreement = entry.get("agreement_teacher") or {}
        agreed = "".join(
            f"{_any_interval(figure)}<small>{_text(teacher)}</small>" for teacher, figure in agreement.items()
        )
        rows.append(
            (
                _name(model.name),
                [
                    size,
                    _text(entry.get("boxes", MISSING)),
                    _any_interval(entry.get("pointing_game")),
                    _prior(entry, "chance", "difference_chance"),
                    _prior(entry, "centre_prior", "difference_centre"),
                    agreed or MISSING,
                    _text(entry.get("conclusion", MISSING)),
                ],
                "",
            )
        )
    heads = [
        "Model",
        "Map",
        "Boxes",
        "Pointing game",
        "Chance",
        "Centre prior",
        "Agreement<br>with teacher",
        "Conclusion",
    ]
    link = '<p><a href="explain/index.html">Gallery of heat maps</a></p>'
    note = (
        '<p class="soft">Pointing game: how often the maximum of the Grad-CAM map lies in a box of the label. Chance: '
        "the share of the frame that boxes cover. Centre prior: the pointing game of a map that always points to the "
        "centre. Below each: the pointing game minus it, paired finding by finding, which is what the conclusion reads."
        "</p>"
    )
    return _table(heads, rows, text={7}) + note + link


def _data(content: Content) -> str:
    counts, labels = content.dataset["counts"], content.dataset["labels"]
    source = content.dataset.get("source") or {}
    rows = [
        ("Images", [f"{counts[split]['images']:,}" for split in counts], ""),
        ("Groups (patients)", [f"{counts[split]['groups']:,}" for split in counts], ""),
    ]
    for label in labels:
        cells = []
        for split in counts.values():
            positives = split["positives"].get(label, 0)
            known = positives + split["negatives"].get(label, 0)
            cells.append(f"{positives:,}<small>{100 * positives / known:.1f} %</small>" if known else f"{positives:,}")
        rows.append((_text(label), cells, ""))
    facts = ", ".join(f"{_text(key)} {_text(value)}" for key, value in source.items() if isinstance(value, str))
    fingerprint = _text(content.dataset.get("fingerprint", ""))[:16]
    intro = (
        f"<p>{facts or 'Source not recorded'}; fingerprint <code>{fingerprint}</code>. Labels: positive images, and"
        " their share of those for which the label is known.</p>"
    )
    return intro + _table(["", *counts], rows) + _validation(content) + _quarantine(content)


def _validation(content: Content) -> str:
    validation = content.validation
    statistics = validation.get("statistics") or {}
    passed = bool(validation.get("success"))
    figures = ", ".join(
        f"{_text(key)} {_text(value)}" for key, value in statistics.items() if isinstance(value, int | float | str)
    )
    warnings = "".join(f"<li>{_text(_line(warning))}</li>" for warning in validation.get("warnings") or [])
    return (
        f"<h3>Validation</h3><p>{_verdict(passed)} {figures}. "
        '<a href="validation/data_docs/index.html">Data docs</a></p>'
        + (f"<p>Warnings:</p><ul>{warnings}</ul>" if warnings else "<p>No warnings.</p>")
        + _expectations(validation.get("expectations") or [])
    )


def _expectations(expectations: Sequence[Mapping[str, Any]]) -> str:
    """Every rule of the gate between data and training, as its Data Docs list them."""
    if not expectations:
        return ""
    rows = []
    for entry in expectations:
        broken = "failed" if entry["severity"] == "critical" else "warning"
        verdict = '<span class="pass">✓ met</span>' if entry["success"] else f'<span class="fail">✗ {broken}</span>'
        found = entry.get("message") or ""
        rows.append(
            (
                _text(f"{entry['table']}: {entry['column'] or 'as a whole'}"),
                [_text(entry["expected"]), verdict, _text(found.partition("; ")[2])],
                "",
            )
        )
    table = _table(["Column", "Expected", "Result", "Found"], rows, text={1, 2}, wrap={1, 3})
    return f"<details><summary>All {len(rows)} expectations</summary>{table}</details>"


def _line(warning: Any) -> str:
    """A warning as one line, whether it is text or a record."""
    return ", ".join(f"{k}: {v}" for k, v in warning.items()) if isinstance(warning, Mapping) else str(warning)


def _quarantine(content: Content) -> str:
    total = len(content.quarantine)
    if not total:
        return "<h3>Quarantine</h3><p>Nothing was left out.</p>"
    rows = [(_text(path), [_text(reason)], "") for path, reason in content.quarantine[:MAX_QUARANTINED]]
    more = f"<p>The first {MAX_QUARANTINED} of {total}.</p>" if total > MAX_QUARANTINED else ""
    noun = "entry was" if total == 1 else "entries were"
    return (
        f"<h3>Quarantine</h3><details><summary>{total:,} {noun} left out</summary>"
        f"{_table(['Path', 'Reason'], rows, wrap={1})}{more}</details>"
    )


def _method(content: Content) -> str:
    figures = content.models[0].evaluation["test"]
    exclusive = (
        "A class is measured against the rest, by its softmax probability. An image's prediction is its most probable "
        "class: accuracy is the share of right ones, balanced accuracy its mean over the classes that occur. Images "
        "whose class is unknown are left out."
    )
    study = {"max": "highest", "mean": "mean"}.get(content.models[0].evaluation.get("study"))
    of_studies = f"Figures are of studies, not of images: a study's probability is the {study} of those of its images."
    items = [
        *([of_studies] if study else []),
        f"95 % intervals come from {figures['resamples']:,} resamples of patients, not of images: images of one "
        "patient are not independent. Means over labels, accuracy and differences of these have percentile intervals, "
        "macro AUPRC a reflected one. Figures of one label have expanded ones, which are wider the fewer patients have "
        "the label (or lack it). Shares of hits have Wilson's. docs/intervals.md says how often each holds the truth.",
        "Every model is measured in the same resamples, so differences are paired. Resamples in which a figure is "
        "undefined are dropped and counted; where more than 5 % are, there is no interval.",
        "A label is eligible where it has at least 10 positives and 10 negatives, each from at least 10 groups. Macro "
        "means are over eligible labels.",
        "p = min(1, 2 min((1 + #≤0)/(R + 1), (1 + #≥0)/(R + 1))) over the R resampled differences; of one label it is "
        "larger, as its interval is wider. Adjusted by Holm: of labels over the eligible labels of two models, of a "
        "figure over all labels over all pairs of models on that split. No p is below 2/(R + 1): where there are more "
        "than R/40 pairs, none can be below 0.05 once adjusted, unless evaluate.resamples is raised.",
        "A baseline is the same student with the same seed and the same budget, without teachers (a recipe with "
        "`unlabelled` has more images, so more steps). Where there are two, the better one on validation is quoted; so "
        "is the best teacher on validation.",
        "ECE: mean over images of |observed rate − mean probability| in 15 bins of equal width, per label, then the "
        f"mean over eligible labels; probabilities are {'the softmax' if _exclusive(content) else 'sigmoids'} of the "
        "logits, without recalibration.",
        *([exclusive] if _exclusive(content) else []),
        "Intervals hold the sampling of patients, not the randomness of training: that is what several seeds show.",
    ]
    return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


# ---------------------------------------------------------------- pieces


def _table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str], str]],
    text: Collection[int] = (),
    wrap: Collection[int] = (),
    plot: Collection[int] = (),
) -> str:
    """A table in a box of its own that scrolls sideways.

    Args:
        heads: column heads, HTML.
        rows: row head, the other cells, and a class; HTML.
        text: columns aligned left, besides the first.
        wrap: columns aligned left that hold long text.
        plot: columns that hold a chart.
    """
    classes = dict.fromkeys(text, "text") | dict.fromkeys(wrap, "text wrap") | dict.fromkeys(plot, "plot") | {0: "text"}

    def cell(tag: str, k: int, value: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return (
            f'<{tag}{scope} class="{classes[k]}">{value}</{tag}>' if k in classes else f"<{tag}{scope}>{value}</{tag}>"
        )

    head = "".join(cell("th", k, value) for k, value in enumerate(heads))
    body = "".join(
        f'<tr class="{style}"><th scope="row">{first}</th>'
        + "".join(cell("td", k, value) for k, value in enumerate(cells, start=1))
        + "</tr>"
        for first, cells, style in rows
    )
    return f'<div class="box" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: Any) -> str:
    return escape(value)


def _name(name: str) -> str:
    """The name of a model or rule in a table, which may break after its joints where room is short."""
    return _text(name).replace("_", "_<wbr>").replace("-", "-<wbr>")


def _number(value: Any, digits: int = 3, signed: bool = False) -> str:
    """A number with a fixed count of decimals and a true minus sign; a dash where there is none."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _millions(value: float) -> str:
    return f"{value / 1e6:,.2f} M"


def _bracketed(estimate: Any, lower: Any, upper: Any, signed: bool = False) -> str:
    """`0.812 [0.790, 0.833]`."""
    text = _number(estimate, signed=signed)
    if lower is None or upper is None:
        return text
    return f"{text} [{_number(lower, signed=signed)}, {_number(upper, signed=signed)}]"


def _interval_of(figures: Mapping[str, Any], key: str, signed: bool = False) -> str:
    return _bracketed(figures.get(key), figures.get(f"{key}_lower"), figures.get(f"{key}_upper"), signed)


def _stacked(figures: Mapping[str, Any], key: str, signed: bool = False) -> str:
    """The estimate, and its interval on the line below."""
    entry = {"estimate": figures.get(key), "lower": figures.get(f"{key}_lower"), "upper": figures.get(f"{key}_upper")}
    return _stacked_estimate(entry, signed)


def _stacked_estimate(entry: Mapping[str, Any], signed: bool = False) -> str:
    estimate = _number(entry["estimate"], signed=signed)
    if entry["lower"] is None or entry["upper"] is None:
        return estimate if entry["estimate"] is None else f"{estimate}<small>no interval</small>"
    bounds = f"[{_number(entry['lower'], signed=signed)}, {_number(entry['upper'], signed=signed)}]"
    return f"{estimate}<small>{bounds}</small>"


def _any_interval(figure: Any) -> str:
    """A figure that is a number, a record with an interval, or missing."""
    if isinstance(figure, Mapping):
        return _stacked_estimate({key: figure.get(key) for key in ("estimate", "lower", "upper")})
    return _number(figure)


def _prior(entry: Mapping[str, Any], key: str, difference: str) -> str:
    """What is hit without a model, and the lead of the pointing game over it on the line below."""
    text, lead = _number(entry.get(key)), entry.get(difference)
    if not lead or lead["estimate"] is None:
        return text
    return f"{text}<small>{_bracketed(lead['estimate'], lead['lower'], lead['upper'], signed=True)}</small>"


def _rule_number(rule: str, value: float | None) -> str:
    if value is None:
        return ""
    if rule in ("max_params", "max_macs"):
        return _millions(value)
    if rule == "require_parity":
        return f"{value:.0e}".replace("-", "−")
    if rule == "max_onnx_mb":
        return f"{value:.1f} MB"
    return _number(value, signed=rule != "max_ece") if value else "0"


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def _mark(passed: bool) -> str:
    return '<span class="pass">✓</span>' if passed else '<span class="fail">✗</span>'


def _verdict(passed: bool) -> str:
    return '<span class="pass">✓ passed</span>' if passed else '<span class="fail">✗ refused</span>'


def _parse(text: str | None) -> float | None:
    """A number of a CSV cell; None where it is empty or NaN."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value == value else None
