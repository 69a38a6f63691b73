"""tripod-ai.md: what TRIPOD+AI and CLAIM ask for, filled with what the run knows; the rest is for its authors."""

from collections.abc import Iterable

from medistill.evaluation.figures import figures_of
from medistill.metrics import eligibility
from medistill.records.models import ModelRecord
from medistill.report.content import Content
from medistill.report.html import render_card
from medistill.report.items import CLAIM, TRIPOD_AI
from medistill.report.numbers import interval, number, percent
from medistill.text import pluralise


def render(content: Content) -> str:
    """The two lists as Markdown."""
    return render_card(
        "tripod",
        name=content.dataset.name,
        lists={"TRIPOD+AI": TRIPOD_AI, "CLAIM 2024": CLAIM},
        facts=facts(content),
    )


def facts(content: Content) -> dict[str, list[str]]:
    """What a run knows, a line each, by the names that items give."""
    return (
        {name: [text] for name, text in _ALWAYS.items()}
        | _of_data(content)
        | _of_models(content)
        | _of_results(content)
    )


_ALWAYS = {
    "aim": (
        "Development of small students that networks teach, and their evaluation on held-out patients of the same "
        "data set: each student against the same one without a teacher, and against its teachers."
    ),
    "predictors": "The pixels of one image alone; nobody chooses or judges them.",
    "partition": (
        "Training images train, validation images choose the epoch, thresholds, calibration and the student; test "
        "images choose nothing. Training and evaluation have the same source."
    ),
    "disjoint": (
        "Patients: no patient (or other group of images) is in two partitions, and the stage audit looks for copies."
    ),
    "retrospective": "Retrospective: the images were there before.",
    "missing": (
        "An unknown label is left out of losses and figures, image by image; nothing is imputed. A label is in the "
        f"mean over labels where it has {eligibility.MIN_IMAGES} positives and {eligibility.MIN_IMAGES} negatives at "
        "least."
    ),
    "parts": "Whole images; nothing is cut out by hand.",
    "choice": (
        "The epoch with the highest macro AUROC on validation; among students, the gate's rules and rank on "
        "validation. The settings are those of params.yaml."
    ),
    "imbalance": (
        "No image is drawn more often than others; a loss that weighs labels says so in the recipe. Probabilities are "
        "those of the images' own prevalence."
    ),
    "updating": (
        "No model is changed after its evaluation. A calibration is fitted on validation; reports/index.html has "
        "figures with and without it."
    ),
    "fairness": (
        "Groups by sex, age, view and source are held against the rest, with what distillation changed; nothing is "
        "done in training."
    ),
    "refusals": (
        "medistill predict refuses files that it cannot read or that are too large, a line each, and says nothing of "
        "whether an image is a good one. It answers for any image, even for one unlike all training images; how well "
        "such images could be told is measured in reports/stress."
    ),
    "clusters": (
        "Images of a patient are a cluster: patients are resampled as a whole. The source is among the subgroups "
        "where the data set names it."
    ),
    "robustness": (
        "The report has the fall in AUROC on brighter, darker, noisy, compressed, blurred, collimated, rotated and "
        "inverted images, paired with teacher and baseline. Several seeds of run.seeds show the randomness of "
        "training; intervals show that of the patients."
    ),
    "external": (
        "None in this run; medistill evaluate measures an export on a data set from elsewhere, medistill compare "
        "anybody's predictions."
    ),
    "files": (
        "exports/<model>/ has the network as ONNX with its preprocessing, labels and thresholds, checksums of all "
        "files, a model card, and proofs of parity and latency. Weights, settings and every number are in the run's "
        "folders."
    ),
    "predictions": (
        "By medistill predict on the exported file, whose logits are compared with the trained network's (parity.json)."
    ),
}


def _of_data(content: Content) -> dict[str, list[str]]:
    dataset = content.dataset
    kind = "one of {} classes" if content.exclusive else "any of {} labels"
    counts = [
        f"{split}: {pluralise(one.images, 'image')} of {pluralise(one.groups, 'group')} (patients)"
        for split, one in dataset.counts.items()
    ]
    failed = [one for one in content.validation.expectations if not one.success]
    reasons: dict[str, int] = {}
    for _, reason in content.quarantine:
        reasons[reason] = reasons.get(reason, 0) + 1
    left_out = [
        f"left out: {count} × {reason}" for reason, count in sorted(reasons.items(), key=lambda one: -one[1])[:10]
    ]
    prevalence = []
    for label in dataset.labels:
        shares = []
        for split, one in dataset.counts.items():
            positives, negatives = one.positives.get(label, 0), one.negatives.get(label, 0)
            known = positives + negatives
            shares.append(f"{split} {positives:,} of {known:,} ({percent(positives / known if known else None)})")
        prevalence.append(f"{label}: {', '.join(shares)}")
    eligible = content.models[0].evaluation.test
    return {
        "title": [
            f"A deep-learning image classifier, distilled: {kind.format(len(dataset.labels))}, {dataset.name}, "
            "developed and evaluated on held-out patients."
        ],
        "data": [f"{dataset.name}, read as {dataset.source.format}; fingerprint {dataset.fingerprint}.", *counts],
        "excluded": [
            f"The source has {dataset.entries:,} entries; {dataset.quarantined:,} were left out.",
            *left_out,
        ],
        "preparation": [
            f"Frames of {dataset.image_size} × {dataset.image_size} px, {dataset.channels} channel(s), 8 bits, made "
            f"square by {dataset.fit}; scaling and normalisation are in the exported network.",
            *dataset.notes,
        ],
        "checks": [
            f"{len(content.validation.expectations)} expectations of the data, {len(failed)} not met; "
            f"{pluralise(len(content.validation.warnings), 'warning')} of the audit.",
        ],
        "labels": [
            f"{', '.join(dataset.labels)}: {'exactly one per image' if content.exclusive else 'each on its own'}."
        ],
        "prevalence": prevalence,
        "sample": [
            f"{len(eligible.labels)} of {pluralise(len(eligible.per_label), 'label')} have enough test images.",
            *(f"{label}: {reason}" for label, reason in eligible.skipped.items()),
        ],
        "participants": [
            f"test, {group.attribute} {group.group}: {pluralise(group.images, 'image')} of {group.groups:,} patients"
            for group in content.models[0].evaluation.subgroups
        ]
        or ["Sex, age, view and source are not known."],
    }


def _of_models(content: Content) -> dict[str, list[str]]:
    ancestors = {
        (one.what, one.shown) for model in content.models for one in model.ancestors or [] if model.role != "teacher"
    }
    versions = {f"{name} {version}" for model in content.models for name, version in model.record.versions.items()}
    records = {model.name: model.record for model in content.models}
    several = [name for name, one in records.items() if len(one.teachers) > 1]
    points = next(iter(content.models[0].evaluation.operating.values()), [])
    promised = ", ".join(f"{point.kind} {point.promised:.2f}" for point in points)
    return {
        "models": [
            f"{name} ({one.role}): {one.arch}"
            + (f", {one.params:,} parameters" if one.params is not None else "")
            + (f", taught by {', '.join(one.teachers)}" if one.teachers else "")
            for name, one in records.items()
        ],
        "initial": [f"{name}: {one.initialisation}" for name, one in records.items()],
        "training": [f"{name}: {_settings(one)}" for name, one in records.items() if one.training] or ["Not recorded."],
        "ensembles": [f"{name} is taught by several teachers, {records[name].combine}." for name in several]
        or ["None; every student answers alone."],
        "licences": [f"{what}: {license}" for what, license in sorted(ancestors)] or ["Not recorded."],
        "code": [
            f"medistill, and {', '.join(sorted(versions)) or 'libraries that are not recorded'}; seeds of training "
            f"{_listed(one.seed for one in records.values())}, of the bootstrap {content.models[0].evaluation.seed}."
        ],
        "output": [
            "A probability per label, by "
            + ("softmax" if content.exclusive else "sigmoid")
            + f"; thresholds that promise {promised} are fitted on validation by conformal risk control."
        ],
    }


def _settings(record: ModelRecord) -> str:
    """Settings of a training, then its losses."""
    said = [f"{key} {value}" for key, value in (record.training or {}).items() if value is not None]
    stages = [stage.terms for stage in record.stages or []] or [record.terms or []]
    losses = [
        f"{term['weight']:g} {term['loss']}{', balanced' if term.get('balanced') else ''}"
        for one in stages
        for term in one
    ]
    return ", ".join(said) + (f"; losses {', '.join(losses)}" if losses else "")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "none"


def _of_results(content: Content) -> dict[str, list[str]]:
    columns = [figure for figure in figures_of(content.dataset.task) if figure.summary]
    measured = [model for model in content.models if model.numbers.test]
    explained = content.explain or {}
    passed = f"{len(content.ranking)} of {pluralise(len(content.verdicts), 'student')} pass the gate"
    return {
        "measures": [", ".join(figure.title for figure in columns) + "; definitions stand on reports/index.html."],
        "uncertainty": [
            f"95 % intervals from {content.models[0].evaluation.test.resamples:,} resamples of patients, paired "
            "between models; p-values are adjusted by Holm. Intervals cover patients, not the randomness of training."
        ],
        "performance": [
            f"{model.name}, test: "
            + ", ".join(f"{one.title} {interval(model.figure('test', one.key))}" for one in columns)
            for model in measured
        ],
        "differences": [
            f"{model.name}, test AUROC minus {words}: {interval(model.figure('test', key), signed=True)}"
            for model in measured
            for key, words in (("difference_baseline", "its baseline"), ("difference_teacher", "the best teacher"))
            if key in model.numbers.test
        ]
        or ["No label is eligible on test."],
        "subgroups": [
            f"{model.name}, {group.attribute} {group.group}: AUROC {interval(group.auroc)}"
            + (f", gap {interval(group.gap, signed=True)}" if group.gap.estimate is not None else "")
            for model in measured
            for group in model.evaluation.subgroups
        ]
        or ["Sex, age, view and source are not known."],
        "thresholds": [
            f"{model.name}, {label}, promised {point.kind} {point.promised:.2f}: "
            f"sensitivity {interval(point.sensitivity)}, specificity {interval(point.specificity)}"
            for model in measured
            if model.role == "distilled"
            for label, points in model.evaluation.operating.items()
            for point in points[:1]
            if point.threshold is not None
        ]
        or ["No threshold can be promised."],
        "explanations": [
            f"{name}: the peak of the map is inside the box for {interval(maps.pointing_game)}, by chance "
            f"{number(maps.chance)}"
            for name, maps in explained.items()
        ]
        or ["Not measured."],
        "failures": ["reports/explain/index.html shows hits and failures, and labels that the teachers contradict."],
        "verdict": [
            f"{passed}; first in rank: {content.ranking[0]}." if content.ranking else f"{passed}.",
            "Better and worse are said on reports/index.html only where p, adjusted, is below 0.05.",
        ],
        "limits": [
            "Evaluated on images of the source that it was trained on; nothing is known of other hospitals.",
            "Labels of public data sets are often read from reports by a program, with its errors.",
            "Intervals do not hold the randomness of training unless several seeds are run.",
        ],
    }
