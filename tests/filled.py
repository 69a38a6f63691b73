"""Records with something in every field, of which a test says only what it is about."""

from typing import Any

from medistill.records.data import DatasetInfo, Origin, SplitCounts
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
