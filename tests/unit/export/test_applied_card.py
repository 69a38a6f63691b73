"""model_card.xml has the elements of CHAI's schema in its order, and MODEL_CARD.md what Hugging Face's Hub reads."""

import json
from xml.etree import ElementTree

import pytest
from huggingface_hub import ModelCard

from medistill.files import read_json
from medistill.report.applied_card import NAMESPACE

KEY_METRIC = (
    *("MetricGoal", ("Results", (("MetricResult+", ("Label", "ValueJson")),)), "Interpretation", "TestType"),
    *("TestingDataDescription", "ValidationProcessAndJustification"),
)
OUTLINE = (
    ("BasicInfo", ("ModelName", "ModelDeveloper", "DeveloperContact")),
    (
        "ReleaseInfo",
        (
            *("ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability"),
            *("EHRCompatibility?", "RegulatoryApproval?"),
        ),
    ),
    ("ModelSummary", ("Summary", ("Keywords", ("Keyword*",)))),
    (
        "UsesAndDirections",
        (
            *("IntendedUseAndWorkflow", "PrimaryIntendedUsers", "HowToUse", "TargetedPatientPopulation"),
            "CautionedOutOfScopeSettings",
        ),
    ),
    ("Warnings", ("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel")),
    (
        "TrustIngredients",
        (
            (
                "AISystemFacts",
                (
                    *("OutcomesAndOutputs", "ModelType", "FoundationModels?", "InputDataSource"),
                    *("OutputAndInputDataTypes", "DevelopmentDataCharacterization", "BiasMitigationApproaches"),
                    *("OngoingMaintenance", "Security?", "Transparency?"),
                ),
            ),
            ("TransparencyInformation", ("FundingSource", "ThirdPartyInformation?", "StakeholdersConsulted")),
        ),
    ),
    (
        "KeyMetrics",
        tuple((name, KEY_METRIC) for name in ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability")),
    ),
    (
        "Resources",
        (
            *("EvaluationReferences?", "ClinicalTrial?", "PeerReviewedPublications", "ReimbursementStatus?"),
            "PatientConsentOrDisclosure",
        ),
    ),
    "Bibliography",
)
"""Of CHAI's Applied Model Card, v0.2: names in order; `?`: it may be missing, `*`: any number, `+`: at least one."""


def mistakes(element: ElementTree.Element, outline) -> list[str]:
    """Where an element is not as the outline says; one without an outline is text."""
    left, found = list(element), []
    for entry in outline:
        name, inner = entry if isinstance(entry, tuple) else (entry, ())
        bare = name.rstrip("?*+")
        most = len(left) if name[-1] in "*+" else 1
        count = 0
        while left and count < most and left[0].tag == f"{{{NAMESPACE}}}{bare}":
            found += mistakes(left.pop(0), inner)
            count += 1
        if not count and name[-1] not in "?*":
            found.append(f"{element.tag} lacks {bare}")
    return found + [f"{element.tag}: {one.tag} is not expected" for one in left]


@pytest.fixture(scope="module")
def card(exported) -> ElementTree.Element:
    return ElementTree.parse(exported / "model_card.xml").getroot()


def test_the_applied_card_has_the_elements_of_the_schema_in_order(card):
    assert card.tag == f"{{{NAMESPACE}}}AppliedModelCard"
    assert mistakes(card, OUTLINE) == []


def test_the_outline_refuses_what_the_schema_does(card):
    text = ElementTree.tostring(card, encoding="unicode")
    for old, new in (("ModelName", "Name"), ("MetricResult", "Result"), ("FundingSource", "StakeholdersConsulted")):
        assert mistakes(ElementTree.fromstring(text.replace(old, new)), OUTLINE) != []


def test_the_applied_card_has_the_figures_of_validation(card, exported):
    name = {"m": NAMESPACE}
    results = {
        one.findtext("m:Label", namespaces=name): json.loads(one.findtext("m:ValueJson", namespaces=name))
        for one in card.iterfind(".//m:MetricResult", name)
    }
    lines = (exported / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()
    shown = dict(line.strip("| ").split(" | ") for line in lines if line.startswith("| val_"))
    assert results.pop("none") is None  # of fairness
    assert {key: f"{value:.4f}" for key, value in results.items()} == {
        key.replace("\\", ""): value for key, value in shown.items()
    }


def test_the_hub_reads_the_figures_of_the_card(exported):
    read = ModelCard((exported / "MODEL_CARD.md").read_text(encoding="utf-8"))
    bundle = read_json(exported / "bundle.json")
    assert (read.data.model_name, read.data.library_name) == (bundle["name"], "onnx")
    figures = {one.metric_name: one for one in read.data.eval_results}
    auroc = figures["val_macro_auroc"]
    assert (auroc.metric_type, auroc.task_type) == ("roc_auc", "image-classification")
    assert auroc.dataset_split == "validation"
    assert f"| val_macro_auroc | {auroc.metric_value:.4f} |" in read.text
    assert read.text.startswith(f"# {bundle['name']}")
