"""RSNA Pneumonia Detection Challenge, stage 2, as Kaggle ships it.

stage_2_train_labels.csv               one row per box: patientId,x,y,width,height,Target
stage_2_detailed_class_info.csv        patientId,class; needed for `labels: classes`
stage_2_train_images/<patientId>.dcm   and stage_2_test_images/, whose labels Kaggle keeps to itself

Target is 1 where radiologists saw an opacity that may be a pneumonia; it is then the class `Lung Opacity` of the other
table. Boxes are in pixels of the original 1024 x 1024 images, whatever size the files have now.

A patientId names an image, not a patient: the images are from ChestX-ray14, where many patients have several. An image
is its own group; `groups.csv` in the folder of `data.splits` may say more.
"""

from pathlib import Path
from typing import Literal

import pandas as pd

from medistill.data.reading.boxes import BoxColumns, upheld
from medistill.data.reading.folders import find_files, list_images, require_folder, require_within
from medistill.data.reading.label_columns import read_flags
from medistill.data.reading.locate import by_stem
from medistill.data.reading.source import Source, one_hot
from medistill.data.reading.tables import find_table, identifiers, join_files, read_table, require_table
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.settings import Settings
from medistill.task import Task

LABELS_FILE = "stage_2_train_labels.csv"
CLASSES_FILE = "stage_2_detailed_class_info.csv"
IMAGES, TEST_IMAGES = "stage_2_train_images", "stage_2_test_images"

PNEUMONIA = "Pneumonia"
OPACITY = "Lung Opacity"
CLASSES = ("Normal", "No Lung Opacity / Not Normal", OPACITY)

BOXES = BoxColumns(x="x", y="y", w="width", h="height", size=[1024, 1024])


class Options(Settings):
    """The keys of `data.options`."""

    labels: Literal["pneumonia", "classes"] = "pneumonia"
    """`pneumonia`: one label, the column Target. `classes`: the three of stage_2_detailed_class_info.csv, which divides
    images without an opacity into normal and otherwise abnormal."""


def read(root: Path, options: Options) -> Source:
    """Join the tables with the files of the challenge's folder; no pixel is decoded.

    An image is one entry, however many boxes it has.

    Left out with a reason: images of the table whose file is missing, whose rows contradict each other, or whose class
    contradicts Target, and images that no row names.

    Raises:
        UserError: a table, a column or the folder of images is missing, a Target is neither 1 nor 0, a class is
            unknown, or a box is invalid, lies outside of the image or stands beside Target 0.
    """
    root = require_folder(root)
    file = require_table(root, LABELS_FILE)
    raw = read_table(file, dict.fromkeys(["patientId", *list(BOXES.columns().values())[:4], "Target"], ()))
    ids = identifiers(raw["patientId"], file, "patientId")
    target = read_flags(raw, file, "Target")
    for blank, column in ((ids.isna(), "patientId"), (target.isna(), "Target")):
        if blank.any():
            raise UserError(f"{file}: line {raw['line'][blank].iloc[0]}: column {column!r} is empty")
    boxes = BOXES.read(raw, file)
    beside = target[boxes.index] == 0
    if beside.any():
        raise UserError(f"{file}: line {raw['line'][boxes.index][beside].iloc[0]}: has a box beside Target 0")

    differ = target.groupby(ids).transform("nunique") > 1
    wrong = pd.Series(None, index=raw.index, dtype=object)
    wrong[differ] = f"rows of {file.name} contradict each other about this image"
    if options.labels == "classes":
        require_table(root, CLASSES_FILE)
    kind = ids.map(_read_classes(find_table(root, CLASSES_FILE))).astype("str")
    clash = kind.notna() & ((kind == OPACITY) != (target == 1))
    wrong[clash & ~differ] = "Target is " + raw["Target"] + ", its class '" + kind + "'"
    if options.labels == "classes":
        wrong[kind.isna() & ~differ] = f"has no class in {CLASSES_FILE}"
        labels, values = list(CLASSES), one_hot(kind, list(CLASSES))
    else:
        labels, values = [PNEUMONIA], pd.DataFrame({LABEL_PREFIX + PNEUMONIA: target})

    require_within(root, IMAGES)
    files = find_files(root, [IMAGES])
    stems = by_stem(files, IMAGES, (".dcm",))
    image = ids.map({name: stems.get(name, f"{IMAGES}/{name}.dcm") for name in ids.unique()})
    first = ~ids.duplicated()
    table = pd.concat([pd.DataFrame({"line": raw["line"], "image": image, "image_id": ids}), values], axis=1)
    joined = join_files(table[first], files, file.name, bad=wrong[first])
    rows = joined.rows.drop(columns=["line", "image"]).assign(group_id=joined.rows["image_id"])
    boxes, notes = upheld(
        boxes.assign(image_id=ids[boxes.index], label=PNEUMONIA if len(labels) == 1 else OPACITY), rows
    )
    return Source(
        labels=labels,
        task=Task.MULTILABEL if options.labels == "pneumonia" else Task.MULTICLASS,
        rows=rows,
        entries=joined.entries,
        quarantined=joined.quarantined,
        boxes=boxes,
        unwanted=_count_unwanted(root),
        notes=notes,
    )


def _read_classes(file: Path | None) -> pd.Series:
    """Class by image; empty without the table."""
    if file is None:
        return pd.Series(dtype="str")
    raw = read_table(file, {"patientId": (), "class": ()})
    unknown = ~raw["class"].isin(CLASSES)
    if unknown.any():
        line, name = raw["line"][unknown].iloc[0], raw["class"][unknown].iloc[0]
        raise UserError(f"{file}: line {line}: unknown class {name!r}; known are {', '.join(CLASSES)}")
    raw = raw.drop_duplicates(["patientId", "class"])  # one row per box, as in the other table
    twice = raw["patientId"].duplicated()
    if twice.any():
        line, image = raw[["line", "patientId"]][twice].iloc[0]
        raise UserError(f"{file}: line {line}: {image} has a second class")
    return raw.set_index("patientId")["class"]


def _count_unwanted(root: Path) -> dict[str, int]:
    """Images whose labels Kaggle keeps to itself."""
    count = len(list_images(find_files(root, [TEST_IMAGES]))[0]) if (root / TEST_IMAGES).is_dir() else 0
    return {f"images of {TEST_IMAGES}/, which have no labels": count} if count else {}
