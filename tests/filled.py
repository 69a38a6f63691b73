"""Records with a value in every field, so that a test gives only the fields that it is about."""

from typing import Any

from medistill.records.audit import Expectation, Validation, ValidationCounts
from medistill.records.data import DatasetInfo, Origin, SplitCounts
from medistill.records.explain import Agreement, ModelMaps, Removal
from medistill.records.export import Latency, Parity
from medistill.records.gallery import Gallery, ShownFinding, ShownKind, ShownMap
from medistill.records.models import ModelRecord


def dataset_info(**changes: Any) -> DatasetInfo:
    """What dataset.json says of a small data set that a test has made."""
    origin = Origin(format=changes.pop("format", "folder"), split="official")
    labels = changes.get("labels", ["Mass", "Nodule"])
    some = dict.fromkeys(labels, 1)
    filled = {
        "name": "made",
        "task": "multilabel",
        "labels": labels,
        "image_size": 32,
        "channels": 1,
        "fit": "pad",
        "fingerprint": "da7a",
        "source": origin,
        "boxes": 0,
        "entries": 4,
        "quarantined": 0,
        "counts": {
            split: SplitCounts(images=2, groups=2, positives=some, negatives=some) for split in ("train", "val", "test")
        },
    }
    return DatasetInfo(**filled | changes)


def model_record(**changes: Any) -> ModelRecord:
    """What config.json says of a small model that a test has made; without files, see `seal`."""
    filled = {
        "role": "teacher",
        "name": "made",
        "network": {"arch": "test_resnet", "weights": None},
        "fingerprint": "f00d",
        "arch": "test_resnet",
        "args": {},
        "initialisation": "random",
        "labels": ["Mass", "Nodule"],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "task": "multilabel",
        "image_size": 32,
        "channels": 1,
        "fit": "pad",
        "params": 1_000,
        "macs": 10_000,
        "map_size": [4, 4],
        "dataset": "made",
        "dataset_fingerprint": "da7a",
        "versions": {"torch": "any"},
        "model_sha256": "",
    }
    return ModelRecord(**filled | changes)


def parity(**changes: Any) -> Parity:
    """What parity.json says of an export that answers as the network did."""
    filled = {"images": 32, "max_abs_logit_difference": 1e-6, "largest_logit": 1.0, "limit": 1e-4, "passed": True}
    return Parity(**filled | changes)


def latency(**changes: Any) -> Latency:
    """What latency.json says of a small export."""
    filled = {"runtime": "onnxruntime", "version": "1.20", "cpu": "a processor", "threads": 1, "batch": 1, "runs": 50}
    return Latency(**filled | {"p50_ms": 1.5, "p95_ms": 2.5, "onnx_mb": 0.001} | changes)


def expectation(**changes: Any) -> Expectation:
    """An expectation about the table of images that was met."""
    filled = {"name": "made", "table": "images", "column": None, "expected": "made", "severity": "warning"}
    found = {"success": True, "observed": None, "unexpected_count": None, "examples": []}
    return Expectation(**filled | found | changes)


def validation(expectations: list[Expectation], *, evaluated: int = 0, warnings: list[str] | None = None) -> Validation:
    """A verdict on data without any failure."""
    warnings = warnings or []
    counts = {"images": 4, "successful": evaluated - len(warnings), "failed": 0, "warnings": len(warnings)}
    statistics = ValidationCounts(evaluated=evaluated, **counts)
    return Validation(success=True, statistics=statistics, failures=[], warnings=warnings, expectations=expectations)


def model_maps(**changes: Any) -> ModelMaps:
    """What explain/metrics.json says of the maps of a model that a test has made."""
    figure = {"estimate": 0.5, "lower": 0.4, "upper": 0.6}
    filled = {
        **dict.fromkeys(("images", "findings", "groups", "boxes", "boxes_test"), 31),
        **{"boxes_val": 0, "masks": 0, "flat_maps": 0, "pointing_game": figure, "energy": figure},
        **{"energy_ratio": None, "overlap": figure, "energy_beside": {}, "overlap_beside": {}},
        **{"detected_findings": 0, "missed_findings": 0, "detected": None, "missed": None},
        **{"chance": 0.1, "difference_chance": None, "centre_prior": 0.2, "difference_centre": None},
        **dict.fromkeys(("label_prior", "difference_label_prior", "wrong_label", "difference_wrong_label")),
        **dict.fromkeys(("random_weights", "difference_random_weights")),
        **{"conclusive": True, "reason": "", "conclusion": "better than chance"},
        **{
            "labels": {},
            "method": "hires_cam",
            "layer": "stride_16",
            "map_size": [8, 8],
            "removal": removal(),
            "agreement_teacher": {},
            "difference_teacher": {},
        },
    }
    return ModelMaps(**filled | changes)


def removal(**changes: Any) -> Removal:
    """What removed pixels do to the answers of a model that a test has made."""
    figure = {"estimate": 0.25, "lower": 0.125, "upper": 0.375}
    names = ("most", "least", "random", "most_minus_random", "random_minus_least")
    filled = {"images": 16, "by_share": {"20%": [0.125, 0.0, 0.0625]}} | dict.fromkeys(names, figure)
    return Removal(**filled | changes)


def agreed(**changes: Any) -> Agreement:
    """How alike the maps of two models that a test has made are."""
    filled = {"estimate": 0.9, "lower": 0.8, "upper": 0.95, "findings": 12, "flat_maps": 0}
    filled |= {"shuffled": 0.1, "difference_shuffled": None}
    other = {"value": {"estimate": 0.7, "lower": None, "upper": None}, "shuffled": 0.1, "difference": None}
    return Agreement(**filled | dict.fromkeys(("cosine", "spearman", "top_fifth"), other) | changes)


def gallery(student: str, teacher: str) -> Gallery:
    """What gallery.json says where a student calls three findings, points at one of them, and one of each is shown."""
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC"
    answer = {"probability": 0.5, "picture": pixel, "top": 1.0, "peak": [0, 0], "called": True, "predicted": None}
    finding = {"split": "test", "label": "Mass", "present": True, "facts": "F", "size": 1, "picture": pixel}
    kinds = []
    for hit, count in ((True, 1), (False, 2)):
        maps = [
            ShownMap(model=name, role=role, hit=hit, **answer)
            for name, role in ((teacher, "teacher"), ("other", "teacher"), (student, "distilled"))
        ]
        shown = ShownFinding(image_id=f"hit {hit}", boxes=[[0.25, 0.25, 0.5, 0.5]], outline="", maps=maps, **finding)
        kinds.append(ShownKind(called=True, hit=hit, findings=count, shown=[shown]))
    return Gallery(student=student, beside=[teacher, student], kinds=kinds, absent=[])
