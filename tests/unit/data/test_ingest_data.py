"""`ingest` on small folders: its outputs, that no entry vanishes, and that the outputs are the same each time."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.checksums import require_whole
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.reading.source import Source
from medistill.data.settings import Data
from medistill.errors import UserError
from medistill.images.decode import decode
from medistill.records.data import MANIFEST_COLUMNS, SplitCounts

LABELS = [
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
]  # CheXNet's order


def settings(root, **changed):
    return Data(
        **{
            "format": "chestxray14",
            "root": root,
            "split": "official",
            "val_fraction": 0.3,
            "test_fraction": 0.3,
            "seed": 0,
            "image_size": 32,
            "channels": 1,
            "fit": "pad",
            "max_quarantined": 0.1,
            "workers": 1,
        }
        | changed
    )


def run(root, tmp_path, out="out", **changed):
    return ingest(settings(root, **changed), tmp_path / out, tmp_path / "cache")


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_is_what_the_contract_says(nih, tmp_path, monkeypatch):
    monkeypatch.setattr("medistill.data.ingest.SHARD", 25)
    summary = run(nih, tmp_path)
    names = {"manifest.parquet", "boxes.parquet", "dataset.json", "quarantine.csv"}
    shards = {f"images-{shard:05d}.npy" for shard in range(3)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | shards
    record = require_whole(tmp_path / "out" / "dataset.json")
    assert record["files"].keys() == names - {"dataset.json"}  # the manifest has a checksum of each frame
    assert record == summary.model_dump()

    data = Dataset.open(tmp_path / "out")
    manifest = data.manifest
    assert (data.name, data.task, data.image_size, data.channels, data.fit) == ("nih", "multilabel", 32, 1, "pad")
    assert data.labels == LABELS
    assert list(manifest) == [*MANIFEST_COLUMNS, *(f"label:{label}" for label in LABELS)]
    assert manifest["image_id"].is_monotonic_increasing
    assert manifest["image_id"].is_unique
    types = {"shard": "int32", "row": "int32", "width": "int32", "height": "int32", "age": "float64"}
    types |= {f"label:{label}": "float32" for label in LABELS}
    assert {column: str(manifest[column].dtype) for column in types} == types
    assert manifest["shard"].tolist() == [0] * 25 + [1] * 25 + [2] * 10
    assert set(manifest["width"]) == {24}

    pixels = data.images(manifest)
    assert pixels.shape == (60, 1, 32, 32)
    for index in (0, 24, 25, 59):
        truth = decode(nih / manifest["path"][index], size=32, channels=1, fit="pad")
        assert np.array_equal(pixels[index], truth)
        assert manifest["sha256"][index] == hashlib.sha256(truth.tobytes()).hexdigest()


def test_counts_and_splits_are_those_of_the_source(nih, tmp_path):
    summary = run(nih, tmp_path)
    manifest = Dataset.open(tmp_path / "out").manifest
    listed = set((nih / "test_list.txt").read_text().split())
    assert set(manifest["image_id"][manifest["split"] == "test"]) == listed
    assert manifest.groupby("patient_id")["split"].nunique().max() == 1
    for split, counts in summary.counts.items():
        part = manifest[manifest["split"] == split]
        odd = part["patient_id"].astype(int) % 2 == 1  # these patients have Effusion and Mass in this folder
        assert counts.images == len(part) > 0
        assert counts.groups == len(part) / 2
        positives = {label: n for label, n in counts.positives.items() if n}
        assert positives == {"Effusion": odd.sum(), "Mass": odd.sum()}


def test_two_runs_are_the_same_byte_for_byte_whatever_the_workers_and_the_cache(nih, tmp_path):
    run(nih, tmp_path, "one")
    run(nih, tmp_path, "two")
    ingest(settings(nih, workers=2), tmp_path / "three", tmp_path / "other cache")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "three")


def test_an_older_folder_is_replaced_whole(nih, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images-00099.npy").write_bytes(b"old")
    run(nih, tmp_path)
    assert not (tmp_path / "out" / "images-00099.npy").exists()


def test_added_patients_move_nobody(nih, tmp_path, make_nih):
    make_nih(tmp_path / "more", patients=60)
    run(nih, tmp_path, "before", split="patient")
    run(tmp_path / "more", tmp_path, "after", split="patient")
    before, after = (Dataset.open(tmp_path / name).manifest.set_index("image_id") for name in ("before", "after"))
    assert len(after) == 120
    assert after.loc[before.index, "split"].equals(before["split"])


def change_pixels(root):
    image = np.asarray(Image.open(root / "images/00000001_000.png")).copy()
    image[0, 0] ^= 255
    Image.fromarray(image).save(root / "images/00000001_000.png")


def change_label(root):
    table = root / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Effusion|Mass", "Effusion", 1))


def change_split(root):
    names = (root / "test_list.txt").read_text().split()
    (root / "test_list.txt").write_text("\n".join(names[2:]))
    with (root / "train_val_list.txt").open("a") as stream:
        stream.write("\n" + "\n".join(names[:2]))


def change_nothing_that_matters(root):
    table = root / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace(",F,PA,", ",M,AP,"))


@pytest.mark.parametrize(
    ("change", "same"),
    [(change_pixels, False), (change_label, False), (change_split, False), (change_nothing_that_matters, True)],
)
def test_the_fingerprint_follows_pixels_labels_and_splits(nih, tmp_path, change, same):
    before = run(nih, tmp_path).fingerprint
    change(nih)
    assert (run(nih, tmp_path).fingerprint == before) is same


def test_the_fingerprint_follows_groups_even_where_they_change_no_split(nih, tmp_path):
    before = run(nih, tmp_path, "before")
    tested = Dataset.open(tmp_path / "before").split("test")["image_id"].iloc[[0, -1]]
    (tmp_path / "lists").mkdir()
    rows = "".join(f"images/{path},same\n" for path in tested)  # joins two patients of the test split
    (tmp_path / "lists/groups.csv").write_text(f"path,group_id\n{rows}")
    after = run(nih, tmp_path, "after", splits=tmp_path / "lists")
    old, new = (Dataset.open(tmp_path / name).manifest for name in ("before", "after"))
    assert old["split"].equals(new["split"])
    assert not old["group_id"].equals(new["group_id"])
    assert before.fingerprint != after.fingerprint


def test_bad_files_are_quarantined_and_the_run_goes_on(nih, tmp_path):
    images = nih / "images"
    (images / "00000001_000.png").write_bytes((images / "00000001_000.png").read_bytes()[:200])
    (images / "00000002_000.png").write_bytes(b"")
    (images / "00000003_000.png").write_text("404 not found")
    (images / "00000004_000.png").unlink()
    (images / "extra.png").write_bytes((images / "00000005_000.png").read_bytes())
    summary = run(nih, tmp_path)
    quarantine = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert list(quarantine) == ["path", "reason"]
    reason = dict(zip(quarantine["path"], quarantine["reason"], strict=True))
    assert list(reason) == [f"images/0000000{n}_000.png" for n in (1, 2, 3, 4)] + ["images/extra.png"]
    assert reason["images/00000001_000.png"].startswith("cannot be decoded: ")
    assert reason["images/00000002_000.png"] == "the file is empty"
    assert reason["images/00000003_000.png"] == "not an image, or in a format that is not read"
    assert str(tmp_path) not in "".join(reason.values())
    assert (summary.entries, summary.quarantined) == (61, 5)
    assert len(Dataset.open(tmp_path / "out").manifest) == 56


@pytest.mark.parametrize(
    ("spoilt", "allowed", "stops"), [(6, 0.1, False), (7, 0.1, True), (1, 0.0, True), (0, 0.0, False)]
)
def test_too_many_bad_files_stop_the_run_and_leave_nothing(nih, tmp_path, spoilt, allowed, stops):
    for file in sorted((nih / "images").iterdir())[:spoilt]:
        file.write_text("not an image")
    if not stops:
        assert run(nih, tmp_path, max_quarantined=allowed).quarantined == spoilt
        return
    with pytest.raises(UserError) as caught:
        run(nih, tmp_path, max_quarantined=allowed)
    message = str(caught.value)
    assert f"{spoilt} of 60 entries cannot be used, more than data.max_quarantined ({allowed:g})" in message
    assert "images/00000001_000.png: not an image" in message
    assert not (tmp_path / "out").exists()
    assert len(pd.read_csv(tmp_path / "cache" / "quarantine.csv")) == spoilt


def test_images_in_neither_list_are_quarantined(nih, tmp_path):
    names = (nih / "train_val_list.txt").read_text().split()
    (nih / "train_val_list.txt").write_text("\n".join(names[1:]))
    run(nih, tmp_path)
    quarantine = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert quarantine.to_dict("records") == [
        {"path": f"images/{names[0]}", "reason": "in none of train_val_list.txt and test_list.txt"}
    ]


def test_the_official_split_needs_its_lists(nih, tmp_path):
    (nih / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"train_val_list.txt and test_list.txt are not there; set data.split: patient"):
        run(nih, tmp_path)
    assert run(nih, tmp_path, split="patient").quarantined == 0


def test_a_patient_in_two_splits_is_named(nih, tmp_path):
    first, *others = (nih / "test_list.txt").read_text().split()
    (nih / "test_list.txt").write_text("\n".join(others))
    with (nih / "train_val_list.txt").open("a") as stream:
        stream.write("\n" + first)
    with pytest.raises(UserError, match=r"train_val_list.txt and test_list.txt: group 21 is in two splits"):
        run(nih, tmp_path)


def test_an_empty_split_is_named(nih, tmp_path):
    (nih / "test_list.txt").write_text("")
    with pytest.raises(UserError, match=r"no image in the split test"):
        run(nih, tmp_path, max_quarantined=1)


def test_a_split_that_quarantine_empties_is_named(nih, tmp_path):
    for name in (nih / "test_list.txt").read_text().split():
        (nih / "images" / name).write_text("not an image")
    with pytest.raises(UserError, match=r"no image in the split test \(of 40 in all\)"):
        run(nih, tmp_path, max_quarantined=0.5)


@pytest.mark.parametrize(
    ("fit", "fractions"),
    [  # a box over the left half of the second quarter of the height, on an image of 48 x 24
        ("squash", [0, 0.25, 0.5, 0.25]),
        ("pad", [0, 0.375, 0.5, 0.125]),  # shown in rows 8 to 24 of 32
        ("crop", [0, 0.25, 0.5, 0.25]),  # columns 12 to 36 are shown, the box ends at 24
    ],
)
def test_boxes_follow_the_fit(nih, tmp_path, fit, fractions):
    name = "00000001_000.png"
    Image.new("L", (48, 24)).save(nih / "images" / name)
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    cut_away = f"{name},Mass,0,0,100,1024"
    (nih / "BBox_List_2017.csv").write_text(f"{header}\n{name},Effusion,0,256,512,256\n{cut_away}\n")
    assert run(nih, tmp_path, fit=fit).boxes == (1 if fit == "crop" else 2)
    boxes = Dataset.open(tmp_path / "out").boxes()
    assert boxes["label"].tolist() == (["Effusion"] if fit == "crop" else ["Effusion", "Mass"])
    assert boxes.loc[0, ["x", "y", "w", "h"]].tolist() == pytest.approx(fractions)


def test_colour_frames_have_three_channels(nih, tmp_path):
    run(nih, tmp_path, channels=3)
    data = Dataset.open(tmp_path / "out")
    assert data.images(data.split("val")).shape[1:] == (3, 32, 32)


def write_splits(tmp_path, name, text):
    (tmp_path / "splits").mkdir(exist_ok=True)
    (tmp_path / "splits" / name).write_text(text)
    return tmp_path / "splits"


def test_listed_groups_are_joined_before_anything_is_split(nih, tmp_path):
    run(nih, tmp_path, "before", split="patient")
    before = Dataset.open(tmp_path / "before").manifest.set_index("path")
    apart = [path for path in before.index if path.endswith("_000.png")][:12]
    assert before.loc[apart, "split"].nunique() > 1
    lines = "".join(f"{path},same picture\n" for path in apart)
    folder = write_splits(tmp_path, "groups.csv", "path,group_id\n" + lines)
    run(nih, tmp_path, split="patient", splits=folder)
    after = Dataset.open(tmp_path / "out").manifest.set_index("path")
    patients = after.loc[apart, "patient_id"]
    joined = after["patient_id"].isin(patients)
    assert joined.sum() == 24  # with the other image of each of the twelve patients
    assert set(after["group_id"][joined]) == {"listed same picture"}
    assert after["split"][joined].nunique() == 1
    assert after.loc[~joined, "split"].equals(before.loc[~joined, "split"])


def test_listed_groups_in_two_official_splits_are_named(nih, tmp_path):
    folder = write_splits(
        tmp_path, "groups.csv", "path,group_id\nimages/00000001_000.png,x\nimages/00000030_000.png,x\n"
    )
    with pytest.raises(UserError, match="group listed x is in two splits, train and test"):
        run(nih, tmp_path, splits=folder)


def test_listed_splits_hold(nih, tmp_path):
    folder = write_splits(tmp_path, "sides.csv", "group_id,split\n1,test\n2,val\n3,train\n")
    run(nih, tmp_path, split="patient", splits=folder)
    splits = Dataset.open(tmp_path / "out").manifest.set_index("patient_id")["split"]
    assert [set(splits[patient]) for patient in "123"] == [{"test"}, {"val"}, {"train"}]
    with pytest.raises(UserError, match=r"sides\.csv: data\.split is official; set data\.split: patient, or remove"):
        run(nih, tmp_path, splits=folder)


class Drawn:
    """A source of twelve drawn pictures, some with masks, as an adapter would give it."""

    def __init__(self, root, **changed):
        (root / "pictures").mkdir(parents=True)
        (root / "masks").mkdir()
        names = [f"{number:02d}.png" for number in range(12)]
        self.masks = {}
        for number, name in enumerate(names):
            grey = np.random.default_rng(number).integers(0, 255, (24, 48), np.uint8)
            Image.fromarray(grey).save(root / "pictures" / name)
            if number % 3:
                mask = np.zeros((24, 48), np.uint8)
                mask[6:12, 12 : 24 + number] = 255
                Image.fromarray(mask).save(root / "masks" / name)
                self.masks[name] = mask
        rows = pd.DataFrame({"image_id": names, "path": [f"pictures/{name}" for name in names], "group_id": names})
        rows["mask"] = [f"masks/{name}" if name in self.masks else None for name in names]
        rows["label:Spot"] = np.float32([0, 1, np.nan] * 4)
        splits = pd.Series(["train", "val", "test"] * 4)
        facts = {"labels": ["Spot"], "task": "multilabel", "rows": rows, "entries": 12, "quarantined": []}
        self.source = Source(**(facts | {"official": splits} | changed))


def test_masks_lie_on_their_images_and_unknown_labels_stay_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("medistill.data.ingest.SHARD", 3)
    drawn = Drawn(tmp_path / "root")
    summary = ingest(settings(tmp_path / "root"), tmp_path / "out", tmp_path / "cache", source=drawn.source)
    data = Dataset.open(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("masks-*.npy"))) == 3
    rows = data.manifest[data.manifest["mask_row"] >= 0]
    assert rows["mask_row"].tolist() == list(range(8))
    shuffled = rows.sample(frac=1, random_state=0)
    for name, mask in zip(shuffled["image_id"], data.masks(shuffled), strict=True):
        truth = decode(tmp_path / "root" / "masks" / name, size=32, channels=1, fit="pad")[0] >= 128
        assert np.array_equal(mask, truth)
        # 24 x 48 is shown in rows 8 to 24 of 32, at two thirds
        assert mask.sum() == pytest.approx((drawn.masks[name] > 0).sum() * 4 / 9, rel=0.15)
        assert not mask[:8].any()
        assert not mask[24:].any()
    with pytest.raises(ValueError, match="without a mask"):
        data.masks(data.manifest)
    known = data.targets(data.manifest)[:, 0]
    assert np.array_equal(known, np.float32([0, 1, np.nan] * 4), equal_nan=True)
    assert summary.counts["test"].positives == summary.counts["test"].negatives == {"Spot": 0}
    assert summary.counts["val"] == SplitCounts(images=4, groups=4, positives={"Spot": 4}, negatives={"Spot": 0})
    assert data.manifest["patient_id"].isna().all()
    assert data.manifest["age"].isna().all()


def test_an_image_whose_mask_is_damaged_is_left_out(tmp_path):
    drawn = Drawn(tmp_path / "root")
    (tmp_path / "root" / "masks" / "01.png").write_text("no picture")
    summary = ingest(settings(tmp_path / "root"), tmp_path / "out", tmp_path / "cache", source=drawn.source)
    assert summary.quarantined == 1
    quarantine = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert quarantine.to_dict("records") == [
        {"path": "pictures/01.png", "reason": "its mask masks/01.png: not an image, or in a format that is not read"}
    ]


def test_a_mask_of_another_shape_is_no_mask_and_a_smaller_one_is(tmp_path):
    drawn = Drawn(tmp_path / "root")
    Image.new("L", (48, 48), 255).save(tmp_path / "root" / "masks" / "01.png")
    Image.fromarray(drawn.masks["02.png"]).resize((24, 12), 0).save(tmp_path / "root" / "masks" / "02.png")
    ingest(settings(tmp_path / "root"), tmp_path / "out", tmp_path / "cache", source=drawn.source)
    quarantine = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    reason = "its mask masks/01.png has another shape: 48x48 pixels, the image 48x24"
    assert quarantine.to_dict("records") == [{"path": "pictures/01.png", "reason": reason}]
    data = Dataset.open(tmp_path / "out")
    (mask,) = data.masks(data.manifest[data.manifest["image_id"] == "02.png"])
    assert mask.sum() == pytest.approx((drawn.masks["02.png"] > 0).sum() * 4 / 9, rel=0.3)


def test_masks_may_be_0_and_1(tmp_path):
    drawn = Drawn(tmp_path / "root")
    for name, mask in drawn.masks.items():
        Image.fromarray(mask // 255 if name != "04.png" else mask * 0).save(tmp_path / "root" / "masks" / name)
    ingest(settings(tmp_path / "root"), tmp_path / "out", tmp_path / "cache", source=drawn.source)
    data = Dataset.open(tmp_path / "out")
    rows = data.manifest[data.manifest["mask_row"] >= 0]
    for name, mask in zip(rows["image_id"], data.masks(rows), strict=True):
        expected = 0 if name == "04.png" else (drawn.masks[name] > 0).sum() * 4 / 9
        assert mask.sum() == pytest.approx(expected, rel=0.15)


def test_augmented_copies_are_not_split_blindly(tmp_path):
    drawn = Drawn(tmp_path / "root", copies=True, official=None)
    data = settings(tmp_path / "root", split="patient", splits=tmp_path / "splits")
    with pytest.raises(
        UserError, match=r"contains augmented copies, .* `medistill check .*root --format chestxray14 --write"
    ):
        ingest(data, tmp_path / "out", tmp_path / "cache", source=drawn.source)
    listed = "".join(f"pictures/{number:02d}.png,{number // 2}\n" for number in range(11))
    write_splits(tmp_path, "groups.csv", "path,group_id\n" + listed)
    with pytest.raises(UserError, match=r"groups\.csv: 1 images are not in it, the first pictures/11\.png; find them"):
        ingest(data, tmp_path / "out", tmp_path / "cache", source=drawn.source)
    write_splits(tmp_path, "groups.csv", "path,group_id\n" + listed + "pictures/11.png,5\n")
    ingest(data, tmp_path / "out", tmp_path / "cache", source=drawn.source)
    manifest = Dataset.open(tmp_path / "out").manifest
    assert manifest["group_id"].tolist() == [str(number // 2) for number in range(12)]
    assert manifest.groupby("group_id")["split"].nunique().max() == 1
