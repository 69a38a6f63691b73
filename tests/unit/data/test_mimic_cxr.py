"""MIMIC-CXR-JPG: tables joined by image and study, views, values for -1 and blank, and unusable rows and files."""

import gzip

import numpy as np
import pytest

from medistill.data.reading.chexpert_labels import LABELS
from medistill.errors import UserError
from tests.trees_cxr import write_xray
from tests.trees_readers import (
    MIMIC,
    MIMIC_LABELS,
    MIMIC_METADATA,
    MIMIC_SPLIT,
    mimic_labels,
    write_mimic_cxr,
    write_table,
)
from tests.trees_tiles import read_whole

NAN = float("nan")

PA, LATERAL, AP, LYING, UNNAMED = (f"0{n}aa804e-bde0afdd-112c0b34-7bc16630-4e384014" for n in range(5))
IMAGES = {  # patient, study, view
    PA: ("10000032", "50414267", "PA"),
    LATERAL: ("10000032", "50414267", "LATERAL"),
    AP: ("10000032", "53189527", "AP"),
    LYING: ("19999987", "58971208", "AP LLD"),
    UNNAMED: ("19999987", "58971208", ""),
}


def path_of(image):
    patient, study, _ = IMAGES[image]
    return f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg"


def metadata(*images):
    return [
        f"{image},{','.join(IMAGES[image][:2])},CHEST,{IMAGES[image][2]},3056,2544,21800506,2.1,,," for image in images
    ]


LABEL_ROWS = [
    f"10000032,50414267,{mimic_labels(No_Finding='1.0')}",
    f"10000032,53189527,{mimic_labels(Edema='1.0', Pneumonia='-1.0', Fracture='0.0')}",
    f"19999987,58971208,{mimic_labels(Edema='-1.0')}",
]


@pytest.fixture
def root(tmp_path):
    """Five images of three studies of two patients, and all tables."""
    root = tmp_path / "2.0.0"
    for image in IMAGES:
        write_xray(root / path_of(image), int(image[1]))
    write_table(root / MIMIC.format("metadata"), MIMIC_METADATA, metadata(*IMAGES))
    write_table(root / MIMIC.format("chexpert"), f"subject_id,study_id,{MIMIC_LABELS}", LABEL_ROWS)
    splits = zip(IMAGES, ("train", "train", "train", "validate", "validate"), strict=True)
    write_table(
        root / MIMIC.format("split"),
        MIMIC_SPLIT,
        [f"{image},{IMAGES[image][1]},{IMAGES[image][0]},{split}" for image, split in splits],
    )
    return root


def labels_of(source, label):
    return dict(zip(source.rows["image_id"], source.rows[f"label:{label}"].tolist(), strict=True))


def test_every_image_has_its_patient_study_view_split_and_the_labels_of_its_study(root):
    source = read_whole("mimic_cxr", root, views="all")
    rows = source.rows.set_index("image_id")
    assert (source.task, source.labels, source.entries, source.quarantined) == ("multilabel", list(LABELS), 5, [])
    for image, (patient, study, view) in IMAGES.items():
        row = rows.loc[image]
        assert (row["path"], row["group_id"], row["patient_id"], row["study_id"]) == (
            path_of(image),
            patient,
            patient,
            study,
        )
        assert row["view"] == {"LATERAL": "L", "": None}.get(view, view) or (view == "" and row["view"] != row["view"])
    assert dict(zip(source.rows["image_id"], source.official, strict=True)) == {
        **dict.fromkeys((PA, LATERAL, AP), "train"),
        **dict.fromkeys((LYING, UNNAMED), "val"),
    }
    assert labels_of(source, "No Finding") == {PA: 1, LATERAL: 1, AP: 0, LYING: 0, UNNAMED: 0}
    assert labels_of(source, "Edema") == pytest.approx(
        {PA: 0, LATERAL: 0, AP: 1, LYING: NAN, UNNAMED: NAN}, nan_ok=True
    )


def test_frontal_views_are_pa_and_ap_and_the_others_are_counted(root):
    source = read_whole("mimic_cxr", root)
    assert source.rows["image_id"].tolist() == [PA, AP]
    assert (source.entries, source.quarantined) == (2, [])
    assert source.unwanted == {"views other than AP and PA (views: frontal)": 3}


@pytest.mark.parametrize(
    ("options", "edema", "pneumonia"),
    [
        ({}, [0, 1, NAN], [0, NAN, 0]),
        ({"uncertainty": "ones"}, [0, 1, 1], [0, 1, 0]),
        ({"uncertainty": {"Edema": "zeros", "default": "ones"}}, [0, 1, 0], [0, 1, 0]),
        ({"blank": "ignore", "uncertainty": "zeros"}, [NAN, 1, 0], [NAN, 0, NAN]),
    ],
)
def test_uncertain_and_blank_cells_count_as_in_chexpert(root, options, edema, pneumonia):
    source = read_whole("mimic_cxr", root, views="all", **options)
    for label, expected in (("Edema", edema), ("Pneumonia", pneumonia)):
        found = labels_of(source, label)
        np.testing.assert_array_equal([found[image] for image in (PA, AP, LYING)], expected)


def test_labels_of_the_other_program_and_unpacked_tables(root):
    write_table(root / MIMIC.format("negbio"), f"subject_id,study_id,{MIMIC_LABELS}", [*LABEL_ROWS[:2]])
    for file in root.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    source = read_whole("mimic_cxr", root, views="all", labels="negbio")
    assert sorted(source.quarantined) == [
        (path_of(image), "its study has no row in mimic-cxr-2.0.0-negbio.csv") for image in (LYING, UNNAMED)
    ]


def test_images_and_rows_that_do_not_meet_are_all_named(root):
    (root / path_of(AP)).unlink()
    extra = root / path_of(PA).replace(PA, "unlisted")
    write_xray(extra, 9)
    write_table(root / MIMIC.format("metadata"), MIMIC_METADATA, metadata(*IMAGES, PA))
    source = read_whole("mimic_cxr", root, views="all")
    table = MIMIC.format("metadata")
    assert sorted(source.quarantined) == sorted(
        [
            (path_of(AP), f"listed in {table} (line 4), but there is no such file"),
            (path_of(PA), f"line 7 repeats an earlier row of {table}"),
            (extra.relative_to(root).as_posix(), f"no row of {table} names this image"),
        ]
    )
    assert source.entries == 7


def test_images_that_have_been_converted_or_moved_are_found_by_their_id(root):
    write_xray((root / path_of(PA)).with_suffix(".png"), 9)  # the original beside it is read instead
    (root / path_of(LATERAL)).rename((root / path_of(LATERAL)).with_suffix(".png"))
    (root / path_of(AP)).rename(root / "files" / f"{AP}.dcm")
    (root / path_of(LYING)).unlink()
    source = read_whole("mimic_cxr", root, views="all")
    assert dict(zip(source.rows["image_id"], source.rows["path"], strict=True)) == {
        PA: path_of(PA),
        LATERAL: path_of(LATERAL).replace(".jpg", ".png"),
        AP: f"files/{AP}.dcm",
        UNNAMED: path_of(UNNAMED),
    }
    table = MIMIC.format("metadata")
    assert sorted(source.quarantined) == [
        (path_of(PA).replace(".jpg", ".png"), f"no row of {table} names this image"),
        (path_of(LYING), f"listed in {table} (line 5), but there is no such file"),
    ]
    frontal = read_whole("mimic_cxr", root)
    assert (frontal.entries, frontal.rows["image_id"].tolist()) == (3, [PA, AP])


def test_without_the_table_of_splits_there_is_none(root):
    (root / MIMIC.format("split")).unlink()
    source = read_whole("mimic_cxr", root)
    assert (source.official, source.official_files) == (None, MIMIC.format("split"))


@pytest.mark.parametrize(
    ("table", "header", "row", "message"),
    [
        (
            "split",
            MIMIC_SPLIT,
            f"{PA},50414267,10000032,fold",
            "line 2: column 'split' has 'fold'; known are train, valid",
        ),
        ("split", MIMIC_SPLIT, f"{PA},1,2,train\n{PA},1,2,test", f"line 3: dicom_id {PA} is there twice"),
        ("split", "dicom_id,study_id", f"{PA},1", "column 'split' is missing"),
        (
            "chexpert",
            f"subject_id,study_id,{MIMIC_LABELS}",
            "\n".join([*LABEL_ROWS, LABEL_ROWS[0]]),
            "line 5: study_id 504",
        ),
        (
            "chexpert",
            f"subject_id,study_id,{MIMIC_LABELS}",
            LABEL_ROWS[0].replace("1.0", "2.0"),
            "has '2.0'; known are 1, 0",
        ),
        ("chexpert", "subject_id,study_id,Edema", "10000032,50414267,1.0", "column 'No Finding' is missing"),
        ("metadata", MIMIC_METADATA, metadata(PA)[0].replace("10000032", ""), "line 2: column 'subject_id' is empty"),
        (
            "metadata",
            MIMIC_METADATA,
            "\n".join([*metadata(PA), metadata(PA)[0].replace("504", "505")]),
            "is in two studies",
        ),
    ],
)
def test_a_table_that_is_not_as_published_is_named(root, table, header, row, message):
    write_table(root / MIMIC.format(table), header, row.split("\n"))
    with pytest.raises(UserError, match=message) as error:
        read_whole("mimic_cxr", root, views="all")
    assert MIMIC.format(table) in str(error.value)


@pytest.mark.parametrize("place", ["..", "files"])
def test_a_folder_one_level_off_is_told_which_one_is_meant(root, place):
    with pytest.raises(
        UserError, match=r"no mimic-cxr-2\.0\.0-metadata\.csv in it, compressed \(\.gz\) or not; set data\.root"
    ) as error:
        read_whole("mimic_cxr", root / place)
    assert str(error.value).endswith(f"{root.name}")


@pytest.mark.parametrize("missing", [MIMIC.format("metadata"), MIMIC.format("chexpert"), "files"])
def test_what_is_missing_is_named(root, missing):
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(UserError, match=missing.removesuffix(".gz").replace(".", r"\.")):
        read_whole("mimic_cxr", root)


def test_a_whole_folder_is_read(tmp_path):
    paths = write_mimic_cxr(tmp_path / "mimic")
    source = read_whole("mimic_cxr", tmp_path / "mimic", views="all", labels="negbio")
    assert sorted(source.rows["path"]) == sorted(paths)
    assert (
        source.rows.groupby("study_id")[[f"label:{label}" for label in LABELS]].nunique(dropna=False).max().max() == 1
    )
    assert source.official.value_counts().to_dict() == {"train": 36, "val": 18, "test": 18}
