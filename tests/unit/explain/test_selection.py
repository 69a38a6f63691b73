import numpy as np
import pandas as pd
import pytest

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.explain.selection import (
    Chosen,
    absent_findings,
    boxed_findings,
    choose,
    located_findings,
    masked_findings,
    mistaken_findings,
    positive_findings,
    spread,
    wrong_labels,
)
from medistill.explain.settings import Explain
from medistill.task import Task
from tests.filled import dataset_info
from tests.seal import seal

LABELS = ["Mass", "Nodule", "Hernia"]
BOTH = ["val", "test"]


def dataset(folder, boxes: list[tuple] = (), images: int = 40) -> Dataset:
    """Four images each in train, val, test, test in turn; two per patient; image k has label k mod 4, for 3 none."""
    (folder / "processed").mkdir()
    pd.DataFrame(boxes, columns=["image_id", "label", "x", "y", "w", "h"]).to_parquet(
        folder / "processed" / "boxes.parquet"
    )
    seal(folder / "processed" / "dataset.json", dataset_info(labels=LABELS))
    rows = {
        "image_id": [f"i{k:02d}" for k in range(images)],
        "group_id": [f"p{k // 2}" for k in range(images)],
        "split": [("train", "val", "test", "test")[k // 4 % 4] for k in range(images)],
    }
    manifest = pd.DataFrame(rows | {f"label:{name}": np.arange(images) % 4 == k for k, name in enumerate(LABELS)})
    manifest = manifest.astype({f"label:{name}": np.float32 for name in LABELS})
    return Dataset(folder / "processed", "made up", "folder", Task.MULTILABEL, LABELS, 32, 1, "pad", "", manifest)


def box(image: int, label: str, x: float = 0.1) -> tuple:
    return (f"i{image:02d}", label, x, 0.1, 0.2, 0.3)


def test_boxes_of_training_images_are_never_used(tmp_path):
    data = dataset(tmp_path, [box(k, "Mass") for k in range(40)])
    findings = boxed_findings(data, 100, BOTH)
    assert {f.image_id for f in findings} == set(data.manifest["image_id"][data.manifest["split"] != "train"])
    assert {f.split for f in findings} == {"val", "test"}
    assert {f.split for f in boxed_findings(data, 100, ["val"])} == {"val"}


def with_masks(folder, empty: list[int] = ()) -> Dataset:
    """The same data set, where every second image has a mask: as many pixels as its number, from the first on."""
    data = dataset(folder)
    masked = np.arange(40) % 2 == 0
    masks = np.zeros((20, 32, 32), np.uint8)
    for row, image in enumerate(np.flatnonzero(masked)):
        masks[row].flat[: 0 if image in empty else image] = 1
    np.save(folder / "processed" / "masks-00000.npy", masks)
    seal(folder / "processed" / "dataset.json", dataset_info(labels=LABELS))
    data.manifest["mask_row"] = np.where(masked, np.cumsum(masked) - 1, -1)
    return data


def test_masks_are_of_the_only_label_of_an_image(tmp_path):
    data = with_masks(tmp_path, empty=[24, 26])
    data.manifest.loc[28, "label:Nodule"] = 1  # two labels, and the mask does not say of which it is
    findings = masked_findings(data, 100, BOTH)
    splits = dict(zip(data.manifest["image_id"], data.manifest["split"], strict=True))
    expected = [k for k in range(40) if k % 2 == 0 and splits[f"i{k:02d}"] != "train" and k not in (24, 26, 28)]
    assert [f.image_id for f in findings] == [f"i{k:02d}" for k in expected]
    assert [f.mask.sum() for f in findings] == expected
    assert [(f.label, f.split, f.located) for f in findings] == [
        (LABELS[k % 4], splits[f"i{k:02d}"], True) for k in expected
    ]
    few = masked_findings(data, 3, BOTH)
    assert len(few) == 3
    assert {f.image_id for f in few} < {f.image_id for f in findings}
    assert located_findings(data, 100, BOTH) == findings


def test_boxes_go_before_masks(tmp_path):
    data = with_masks(tmp_path)
    pd.DataFrame([box(6, "Hernia")], columns=["image_id", "label", "x", "y", "w", "h"]).to_parquet(data.files.boxes)
    seal(tmp_path / "processed" / "dataset.json", dataset_info(labels=LABELS))
    assert [(f.image_id, f.mask) for f in located_findings(data, 100, BOTH)] == [("i06", None)]


def chosen(data: Dataset, **settings) -> Chosen:
    return choose(data, Explain(**settings), {})


def test_validation_images_choose_and_test_images_are_measured(tmp_path):
    data = dataset(tmp_path, [box(k, LABELS[k % 4]) for k in range(200) if k % 4 < 3], images=200)
    both = chosen(data)
    assert {f.split for f in both.deciding} == {"val"}
    assert len({f.group_id for f in both.deciding}) >= 10
    assert {f.split for f in both.measured} == {"test"}
    assert both.located

    one_way = chosen(data, methods=["hires_cam"], layers=["last"])
    assert one_way.deciding == []
    assert {f.split for f in one_way.measured} == {"val", "test"}


def test_too_few_validation_images_choose_nothing_and_are_measured(tmp_path):
    some = dataset(
        tmp_path, [box(k, LABELS[k % 4]) for k in range(40) if k % 4 < 3]
    )  # validation: 3 patients with boxes
    few = chosen(some)
    assert few.deciding == []
    assert {f.split for f in few.measured} == {"val", "test"}
    (tmp_path / "val alone").mkdir()
    boxes = [box(k, LABELS[k % 4]) for k in range(200) if k % 4 < 3 and k // 4 % 4 == 1]
    alone = chosen(dataset(tmp_path / "val alone", boxes, images=200))  # no boxes on test images: nothing else is left
    assert alone.deciding == []
    assert {f.split for f in alone.measured} == {"val"}


def test_the_wrong_label_is_one_that_the_image_lacks(tmp_path):
    data = dataset(tmp_path)
    findings = positive_findings(data, 100)
    wrong = wrong_labels(findings, data)
    assert len(wrong) == len(findings)
    assert all(label in LABELS and label != f.label for label, f in zip(wrong, findings, strict=True))
    assert set(wrong) == set(LABELS)
    assert wrong == wrong_labels(findings, data)
    columns = [f"label:{name}" for name in LABELS]
    data.manifest.loc[data.manifest["image_id"] == findings[0].image_id, columns] = 1.0
    data.manifest.loc[data.manifest["image_id"] == findings[1].image_id, columns] = [np.nan, 1.0, np.nan]
    assert wrong_labels(findings[:2], data) == [None, None]


def test_all_boxes_of_a_label_on_an_image_are_one_finding(tmp_path):
    data = dataset(tmp_path, [box(8, "Nodule"), box(8, "Mass"), box(8, "Nodule", x=0.5), box(4, "Hernia")])
    hernia, mass, nodule = boxed_findings(data, 100, BOTH)
    assert (hernia.image_id, hernia.label, hernia.group_id, hernia.split) == ("i04", "Hernia", "p2", "val")
    assert (mass.image_id, mass.label, mass.boxes) == ("i08", "Mass", ((0.1, 0.1, 0.2, 0.3),))
    assert (nodule.image_id, nodule.boxes) == ("i08", ((0.1, 0.1, 0.2, 0.3), (0.5, 0.1, 0.2, 0.3)))


def test_limit_counts_images_and_does_not_depend_on_the_order_of_rows(tmp_path):
    boxes = [box(k, label) for k in range(40) for label in ("Mass", "Nodule")]
    data = dataset(tmp_path, boxes)
    few = boxed_findings(data, 5, BOTH)
    assert len({f.image_id for f in few}) == 5
    assert len(few) == 10
    more = boxed_findings(data, 6, BOTH)
    assert set(few) < set(more)  # a larger limit only adds
    assert {f.image_id for f in few} != set(sorted({f.image_id for f in boxed_findings(data, 99, BOTH)})[:5])
    (tmp_path / "again").mkdir()
    assert boxed_findings(dataset(tmp_path / "again", boxes[::-1]), 5, BOTH) == few


def test_box_with_a_label_that_the_data_set_does_not_have(tmp_path):
    with pytest.raises(UserError, match=r"boxes\.parquet: label 'Infiltrate' is not one of"):
        boxed_findings(dataset(tmp_path, [box(8, "Infiltrate")]), 5, BOTH)


def test_without_boxes_positive_labels_of_test_images(tmp_path):
    data = dataset(tmp_path)
    assert boxed_findings(data, 100, BOTH) == []
    findings = positive_findings(data, 100)
    assert [(f.image_id, f.label) for f in findings[:4]] == [
        ("i08", "Mass"),
        ("i09", "Nodule"),
        ("i10", "Hernia"),
        ("i12", "Mass"),
    ]
    assert all(f.split == "test" and f.boxes == () and f.present for f in findings)
    assert len({f.image_id for f in positive_findings(data, 3)}) == 3


def test_absent_findings_are_test_images_without_any_label(tmp_path):
    data = dataset(tmp_path)
    free = data.manifest[(data.manifest["split"] == "test") & (np.arange(40) % 4 == 3)]
    findings = absent_findings(data, ["Nodule", "Mass"], 3)
    assert [f.label for f in findings] == ["Nodule", "Mass", "Nodule"]
    assert {f.image_id for f in findings} < set(free["image_id"])
    assert not any(f.present for f in findings)
    assert len(absent_findings(data, ["Mass"], 99)) == len(free)


def test_unknown_labels_are_not_absent(tmp_path):
    data = dataset(tmp_path)
    data.manifest.loc[np.arange(40) % 4 == 3, "label:Hernia"] = np.nan
    assert absent_findings(data, LABELS, 3) == []


def exclusive(folder) -> Dataset:
    """As `dataset`, but images without any of the three labels are of class Hernia."""
    data = dataset(folder)
    data.manifest.loc[np.arange(40) % 4 == 3, "label:Hernia"] = 1
    return data


def test_of_exclusive_classes_the_true_one_is_explained(tmp_path):
    data = exclusive(tmp_path)
    findings = positive_findings(data, 100)
    test = data.manifest[data.manifest["split"] == "test"]
    assert [f.image_id for f in findings] == list(test["image_id"])  # one per image
    for finding in findings:
        assert test.set_index("image_id").at[finding.image_id, f"label:{finding.label}"] == 1
    assert absent_findings(data, LABELS, 10) == []


def test_mistaken_findings_are_the_wrong_classes_that_models_name(tmp_path):
    data = exclusive(tmp_path)
    rows = data.split("test")
    truth = data.targets(rows).argmax(axis=1)
    first, second = truth.copy(), truth.copy()
    mass, hernia = LABELS.index("Mass"), LABELS.index("Hernia")
    first[2] = second[2] = second[9] = mass  # i10 is Hernia, i25 Nodule
    first[5] = hernia  # i13 is Nodule
    findings = mistaken_findings(data, {"a": first, "b": second, "right": truth}, LABELS, 10)
    assert {(f.image_id, f.label) for f in findings} == {("i10", "Mass"), ("i13", "Hernia"), ("i25", "Mass")}
    assert not any(f.present or f.boxes for f in findings)
    assert all(f.split == "test" and f.group_id == f"p{int(f.image_id[1:]) // 2}" for f in findings)
    assert len(mistaken_findings(data, {"a": first, "b": second}, LABELS, 2)) == 2
    assert [f.image_id for f in mistaken_findings(data, {"a": first, "b": second}, ["Hernia"], 10)] == ["i13"]
    assert mistaken_findings(data, {"right": truth}, LABELS, 10) == []


def test_an_image_of_unknown_class_is_no_mistake(tmp_path):
    data = exclusive(tmp_path)
    data.manifest.loc[data.manifest["split"] == "test", [f"label:{label}" for label in LABELS]] = np.nan
    wrong = np.zeros(len(data.split("test")), int)
    assert mistaken_findings(data, {"a": wrong}, LABELS, 10) == []


def test_spread_gives_every_label_a_turn_and_no_image_twice(tmp_path):
    boxes = [box(k, "Mass") for k in range(40)] + [box(8, "Nodule"), box(9, "Nodule"), box(9, "Hernia")]
    findings = boxed_findings(dataset(tmp_path, boxes), 100, BOTH)
    chosen = spread(findings, LABELS, 5)
    assert len({f.image_id for f in chosen}) == len(chosen) == 5
    assert {f.label for f in spread(findings, LABELS, 3)} >= {"Mass", "Nodule"}
    assert [f.label for f in chosen] == sorted((f.label for f in chosen), key=LABELS.index)
    assert spread(findings[::-1], LABELS, 5) == chosen
    assert len(spread(findings, LABELS, 1000)) == len({f.image_id for f in findings})
