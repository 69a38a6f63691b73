"""model_card.xml: the facts of a model by the Applied Model Card schema of the Coalition for Health AI (CHAI), v0.2.

https://mc.chai.org/v0.2/schema.xsd. The schema asks for much that a program cannot know: that is marked as the user's
to write.
"""

import json
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from medistill.data.dataset import Dataset
from medistill.records.licenses import Ancestor
from medistill.records.models import ModelRecord
from medistill.report.card import FITS, Side, recipe_in_words
from medistill.runtime.bundle import DISCLAIMER
from medistill.text import printable

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"

Element = str | dict[str, "Element"] | list[tuple[str, "Element"]]
"""Text, or elements by name in order; a list where a name comes several times."""


def applied_model_card(
    config: ModelRecord,
    metrics: Mapping[str, object],
    dataset: Dataset,
    ancestors: Sequence[Ancestor] | None = None,
) -> str:
    """Write the card, as XML.

    Args:
        config: of the model.
        metrics: figures on validation, by their names in MODEL_CARD.md.
        dataset: the ingested data.
        ancestors: what the model descends from, with the licence of each; None: not recorded.
    """
    content: dict[str, Element] = {
        "BasicInfo": {
            "ModelName": config.name,
            "ModelDeveloper": _yours("who has made it"),
            "DeveloperContact": _yours("whom to ask"),
        },
        "ReleaseInfo": {
            "ReleaseStage": "Research",
            "ReleaseDate": _yours("when it was released"),
            "ReleaseVersion": config.fingerprint,
            "GlobalAvailability": "None: research use only.",
            "RegulatoryApproval": "None: not a medical device.",
        },
        "ModelSummary": {
            "Summary": _summary(config),
            "Keywords": [("Keyword", word) for word in ("image classification", "distillation", *config.labels)],
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": f"{DISCLAIMER}. It must not be used for the care of patients.",
            "PrimaryIntendedUsers": "Researchers.",
            "HowToUse": f"medistill predict IMAGE --model exports/{config.name}",
            "TargetedPatientPopulation": _yours("whose images it is for"),
            "CautionedOutOfScopeSettings": "Any care of patients. Images of other kinds, devices and hospitals than "
            "those of its data: it answers for any image, even for one unlike all of these.",
        },
        "Warnings": {
            "KnownRisksAndLimitations": "It knows only its labels. Labels of public data sets are often read from "
            "reports by a program, with its errors. Thresholds hold for patients like those of validation.",
            "KnownBiasesOrEthicalConsiderations": "The report of the run holds groups by sex, age, view and source "
            "against the rest. " + _yours("what else is known"),
            "ClinicalRiskLevel": _yours("the risk, if it is ever to be used; for research it has none of its own"),
        },
        "TrustIngredients": _ingredients(config, dataset, ancestors),
        "KeyMetrics": _metrics(metrics, Side.of(dataset, "val")),
        "Resources": {
            "PeerReviewedPublications": _yours("publications, or that there are none"),
            "PatientConsentOrDisclosure": _yours(
                "how patients consented to the use of their images, or why they need not"
            ),
        },
        "Bibliography": "",
    }
    root = ElementTree.Element("AppliedModelCard", xmlns=NAMESPACE)
    _fill(root, content)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _yours(what: str) -> str:
    return f"You must write this: {what}."


def _summary(config: ModelRecord) -> str:
    kind = "One class of several" if config.task.exclusive else "Each label on its own"
    return (
        f"A compact image classifier. {kind}: {', '.join(config.labels)}. Network {config.arch}, "
        f"{config.costs[0]:,} parameters. Recipe {recipe_in_words(config)}."
    )


def _ingredients(config: ModelRecord, dataset: Dataset, ancestors: Sequence[Ancestor] | None) -> dict[str, Element]:
    colour = "grey" if config.channels == 1 else "RGB"
    train, val = Side.of(dataset, "train"), Side.of(dataset, "val")
    sources = "; ".join(f"{one.what}: {one.shown}" for one in ancestors or []) or "not recorded"
    return {
        "AISystemFacts": {
            "OutcomesAndOutputs": "A probability per label; thresholds that validation has fitted are in bundle.json.",
            "ModelType": f"Convolutional or other image network ({config.arch}), as ONNX.",
            "FoundationModels": f"Initial weights: {config.initialisation}.",
            "InputDataSource": f"{dataset.name} (fingerprint {dataset.fingerprint}). Licences: {sources}.",
            "OutputAndInputDataTypes": f"Input: one {colour} image, {FITS[config.fit]} to {config.image_size} px. "
            f"Output: {len(config.labels)} probabilities.",
            "DevelopmentDataCharacterization": f"Trained on {train.images:,} images of {train.groups:,} patients or "
            f"other groups, validated on {val.images:,} images of {val.groups:,}. " + _yours("whom the data represent"),
            "BiasMitigationApproaches": "None in training.",
            "OngoingMaintenance": "None.",
            "Security": "Runs offline; bundle.json has a checksum of every file.",
            "Transparency": "MODEL_CARD.md, parity.json and latency.json lie beside this file.",
        },
        "TransparencyInformation": {
            "FundingSource": _yours("who paid"),
            "StakeholdersConsulted": _yours("who was asked, or that nobody was"),
        },
    }


_RANKS = ("auroc", "auprc", "accuracy")
"""In the names of figures of usefulness; the others are of reliability."""


def _metrics(metrics: Mapping[str, object], val: Side) -> dict[str, Element]:
    """Figures on validation; the schema has three kinds of them."""
    about = {
        "TestType": "Internal, retrospective.",
        "TestingDataDescription": f"{val.images:,} validation images of {val.groups:,} patients or other groups.",
        "ValidationProcessAndJustification": "The same images chose the epoch, so that the figures flatter the model a "
        "little; the report of the run has those of test patients, with intervals.",
    }
    figures = {key: value for key, value in metrics.items() if key.startswith("val_")}
    useful = {key: value for key, value in figures.items() if any(word in key for word in _RANKS)}
    reliable = {key: value for key, value in figures.items() if key not in useful}
    return {
        "UsefulnessUsabilityEfficacy": {
            "MetricGoal": "To rank images with a label above those without it.",
            "Results": _results(useful),
            "Interpretation": "Means over labels; 0.5 of an AUROC is chance.",
            **about,
        },
        "FairnessEquity": {
            "MetricGoal": "To do as well in each group of patients as in the others.",
            "Results": _results({}),
            "Interpretation": "Not measured on validation; the report of the run has subgroups of test patients.",
            **about,
        },
        "SafetyReliability": {
            "MetricGoal": "To answer with probabilities that are right.",
            "Results": _results(reliable),
            "Interpretation": "Brier score, log loss, ECE: less is better. Slope and O/E: 1 is right; intercept: 0 is.",
            **about,
        },
    }


def _results(figures: Mapping[str, object]) -> Element:
    shown = figures or {"none": None}  # the schema wants one at least
    return [("MetricResult", {"Label": key, "ValueJson": json.dumps(value)}) for key, value in shown.items()]


def _fill(parent: ElementTree.Element, content: Element) -> None:
    if isinstance(content, str):
        parent.text = printable(content)
        return
    for name, inner in content.items() if isinstance(content, dict) else content:
        _fill(ElementTree.SubElement(parent, name), inner)
