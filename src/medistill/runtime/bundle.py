"""bundle.json: what a device must know about the exported model beside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medistill.checksums import EXPORT_AGAIN, OWN, require_own
from medistill.errors import UserError
from medistill.files import read_json
from medistill.images.limits import LARGEST_SIZE
from medistill.layout import ExportFolder
from medistill.task import Calibration, Task
from medistill.text import is_name, shortened

BUNDLE_VERSION = 2
"""Incremented when a reader of the older layout would misread a new bundle."""

LARGEST_BUNDLE = 2**22
"""Largest bundle.json that is read, in bytes."""

DISCLAIMER = "Research use only, not a medical device"

INPUT, LOGITS, PROBABILITIES, MAPS, LARGEST = "image", "logits", "probabilities", "saliency_map", "saliency_max"
UNLIKE = "unlike"
"""Names in the graph: uint8 (batch, C, S, S) in, float32 out: (batch, L), (batch, L), (batch, L, h, w), (batch, L), and
(batch,), which is above 1 for an image unlike those of the training. The last three are not in every file."""

DEFAULT_POINT = "sensitivity:0.9"
"""What is called where nobody says at which operating point."""

MOST_POINTS = 16
"""Most operating points of a bundle."""


@dataclass(frozen=True)
class CalledAt:
    """An operating point: a promise, and the thresholds that keep it.

    Attributes:
        kind: `sensitivity` or `specificity`.
        promised: its mean over new patients like those of validation is at least this.
        thresholds: of each label, the probability from which on it is called; None where nothing can be promised.
    """

    kind: Literal["sensitivity", "specificity"]
    promised: float
    thresholds: Mapping[str, float | None]

    def __str__(self) -> str:
        """The promise in words."""
        return f"{self.kind} {self.promised:g}"

    def calls(self, label: str, probability: float) -> bool | None:
        """Whether a label is called; None where it has no threshold."""
        at = self.thresholds[label]
        return None if at is None else probability >= at

    def to_json(self) -> dict[str, object]:
        """An entry of `operating_points` in bundle.json."""
        return {"kind": self.kind, "promised": self.promised, "thresholds": dict(self.thresholds)}


@dataclass(frozen=True)
class Bundle:
    """An exported model's description.

    Attributes:
        name: the model's name.
        task: whether its labels exclude each other.
        labels: label names, in the order of the logits.
        image_size: height and width of the frame in pixels.
        channels: 1 or 3.
        fit: how an image that is not square becomes square (`pad`, `squash`, `crop`).
        model: path of the ONNX file.
        sha256: its checksum, hex.
        calibration: of its logits, fitted on validation: it makes the probabilities.
        points: its operating points, with thresholds on these probabilities.
        test_auroc: AUROC of each eligible label on the model's own test images.
        data: titles of the data sets that it descends from; empty where they are not recorded.
        explain: path of the ONNX file with finer heat maps; None where there is none.
        explain_sha256: its checksum, hex.
        map_scale: of each label, the largest value of its heat maps on some validation images, so that maps of
            several images are shown on one scale; empty where the file gives no maps.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    image_size: int
    channels: int
    fit: Literal["pad", "squash", "crop"]
    model: Path
    sha256: str
    calibration: Calibration
    points: tuple[CalledAt, ...] = ()
    test_auroc: Mapping[str, float] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    explain: Path | None = None
    explain_sha256: str | None = None
    map_scale: Mapping[str, float] = field(default_factory=dict)

    def point(self, asked: str) -> CalledAt:
        """The operating point that a user asks for, as `sensitivity:0.9`.

        Raises:
            UserError: there is no such point; the message names those there are.
        """
        kind, _, number = asked.partition(":")
        try:
            promised = float(number)
        except ValueError:
            promised = math.nan  # which no point promises
        for point in self.points:
            if (point.kind, point.promised) == (kind, promised):
                return point
        known = ", ".join(f"{point.kind}:{point.promised:g}" for point in self.points)
        raise UserError(f"{self.name} has no thresholds for {asked}; {f'it has {known}' if known else EXPORT_AGAIN}")


def content(
    bundle: Bundle,
    *,
    normalisation: Mapping[str, list[float]],
    batch_size: int | None,
    costs: Mapping[str, int],
    training: Mapping[str, object],
    licenses: Sequence[Mapping[str, object]] | None = None,
) -> dict[str, object]:
    """The content of bundle.json.

    Args:
        bundle: the part that prediction needs.
        normalisation: `mean` and `std`, which the graph applies itself.
        batch_size: how many images the ONNX file takes at once; None: any number.
        costs: `params` and `macs`.
        training: how the model was trained.
        licenses: `license` (null: unknown), `what` and `path` of each of its ancestors; None: not recorded.
    """
    return {
        "bundle_version": BUNDLE_VERSION,
        "name": bundle.name,
        "disclaimer": DISCLAIMER,
        "task": bundle.task,
        "labels": list(bundle.labels),
        "preprocessing": {
            "image_size": bundle.image_size,
            "channels": bundle.channels,
            "fit": bundle.fit,
            **normalisation,
        },
        "file": bundle.model.name,
        "sha256": bundle.sha256,
        "batch_size": batch_size,
        "explain": None if bundle.explain is None else {"file": bundle.explain.name, "sha256": bundle.explain_sha256},
        "operating_points": [point.to_json() for point in bundle.points],
        "calibration": bundle.calibration.written_out(len(bundle.labels)),
        "test_auroc": dict(bundle.test_auroc),
        "map_scale": dict(bundle.map_scale),
        **costs,
        "training": dict(training),
        **({} if licenses is None else {"licenses": list(licenses)}),
    }


def read_bundle(folder: Path) -> Bundle:
    """Read and check `bundle.json` of an exported model.

    Raises:
        UserError: the folder or the file is missing or damaged, was written by another version, or a key is missing or
            wrong.
    """
    folder = Path(folder)
    path = ExportFolder(folder).bundle
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a folder that the export stage wrote")
    if not path.exists():
        raise UserError(f"{folder}: not an exported model, {path.name} is missing")
    raw = read_json(path, limit=LARGEST_BUNDLE)
    if isinstance(raw, dict) and OWN in raw:  # not in one that was written by hand
        require_own(path, raw, "copy or export it again")
    version = raw.get("bundle_version") if isinstance(raw, dict) else None
    if type(version) is not int or version != BUNDLE_VERSION:
        raise UserError(
            f"{path}: version {shortened(str(version), 20)}, but this medistill reads version {BUNDLE_VERSION};"
            f" {EXPORT_AGAIN}"
        )
    preprocessing = raw.get("preprocessing")
    # Any: whatever the file says, until `_CHECKS` have passed it
    flat: dict[str, Any] = {
        **{"licenses": [], "explain": None},  # where there are none
        **(preprocessing if isinstance(preprocessing, dict) else {}),
        **raw,
    }
    for key, valid in _CHECKS.items():
        if key not in flat:
            raise UserError(f"{path}: key {key} is missing; {EXPORT_AGAIN}")
        if not valid(flat[key]):
            value = shortened(repr(flat[key]), 200)
            raise UserError(f"{path}: {key} has the invalid value {value}; {EXPORT_AGAIN}")
    for point in flat["operating_points"]:
        if set(point["thresholds"]) != set(flat["labels"]):
            raise UserError(f"{path}: operating_points have thresholds of other labels; {EXPORT_AGAIN}")
    task, calibration, explain = Task(flat["task"]), flat["calibration"], flat["explain"]
    if len(calibration["slopes"]) != len(flat["labels"]):
        raise UserError(f"{path}: calibration has another number of labels; {EXPORT_AGAIN}")
    if flat["map_scale"] and set(flat["map_scale"]) != set(flat["labels"]):
        raise UserError(f"{path}: map_scale has other labels; {EXPORT_AGAIN}")
    return Bundle(
        name=flat["name"],
        task=task,
        labels=tuple(flat["labels"]),
        image_size=flat["image_size"],
        channels=flat["channels"],
        fit=flat["fit"],
        model=folder / flat["file"],
        sha256=flat["sha256"],
        calibration=Calibration(task, **calibration),
        points=tuple(CalledAt(**point) for point in flat["operating_points"]),
        test_auroc=flat["test_auroc"],
        data=tuple(dict.fromkeys(a["what"][5:] for a in flat["licenses"] if a["what"].startswith("data "))),
        map_scale=flat["map_scale"],
        explain=None if explain is None else folder / explain["file"],
        explain_sha256=None if explain is None else explain["sha256"],
    )


def _is_file(value: Any) -> bool:
    """A plain name: the file cannot be outside of the folder."""
    return isinstance(value, str) and is_name(value) and value == Path(value).name and value != ".."


def _is_explain(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and _is_file(value.get("file")) and isinstance(value.get("sha256"), str)
    )


def _are_labels(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(label, str) and is_name(label) for label in value)
        and len(set(value)) == len(value)
    )


def _are_points(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_POINTS and all(map(_is_point, value))


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"kind", "promised", "thresholds"}
        and value["kind"] in ("sensitivity", "specificity")
        and _is_share(value["promised"])
        and isinstance(value["thresholds"], dict)
        and all(at is None or _is_threshold(at) for at in value["thresholds"].values())
    )


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1


def _are_aurocs(value: Any) -> bool:
    return isinstance(value, dict) and all(type(auroc) in (int, float) and 0 <= auroc <= 1 for auroc in value.values())


def _is_scale(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_finite(largest) and largest >= 0 for largest in value.values())


def _is_threshold(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 2  # above 1: never called


def _are_ancestors(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(a, dict) and isinstance(a.get("what"), str) for a in value)


def _is_calibration(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"slopes", "intercepts"}
        and all(isinstance(given, list) and all(map(_is_finite, given)) for given in value.values())
        and len(value["slopes"]) == len(value["intercepts"])
        and all(slope > 0 for slope in value["slopes"])
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str) and is_name(value),
    "task": lambda value: value in (*Task,),
    "labels": _are_labels,
    "image_size": lambda value: type(value) is int and 0 < value <= LARGEST_SIZE,
    "channels": lambda value: type(value) is int and value in (1, 3),
    "fit": lambda value: value in ("pad", "squash", "crop"),
    "file": _is_file,
    "sha256": lambda value: isinstance(value, str),
    "operating_points": _are_points,
    "calibration": _is_calibration,
    "test_auroc": _are_aurocs,
    "licenses": _are_ancestors,
    "explain": _is_explain,
    "map_scale": _is_scale,
}
"""Key of bundle.json that is needed here -> whether a value is valid."""
