"""PadChest trees: lists in strings, label trees, projections, ids, and what is left out."""

import ast
import csv
import gzip
import math

import numpy as np
import pytest
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.reading.padchest_labels import DIFFERENTIAL, EXCLUDE, FINDINGS, NORMAL, TOKENS
from medistill.errors import UserError
from tests.trees_cxr import (
    PADCHEST_HEADER,
    PADCHEST_TABLE,
    padchest_row,
    write_padchest,
    write_padchest_table,
)
from tests.trees_tiles import read_whole, settings

DISEASES = [
    "pneumonia",
    "atypical pneumonia",
    "tuberculosis",
    "tuberculosis sequelae",
    "lung metastasis",
    "lymphangitis carcinomatosa",
    "lepidic adenocarcinoma",
    "pulmonary fibrosis",
    "post radiotherapy changes",
    "asbestosis signs",
    "emphysema",
    "COPD signs",
    "heart insufficiency",
    "respiratory distress",
    "pulmonary hypertension",
    "pulmonary artery hypertension",
    "pulmonary venous hypertension",
    "pulmonary edema",
    "bone metastasis",
]


def read(root, **options):
    return read_whole("padchest", root, **options)


def write(root, *rows, **settings):
    """A folder of these rows: the cell `Labels`, or a dict of cells; images a.png, b.png ..."""
    cells = [row if isinstance(row, dict) else {"labels": row} for row in rows]
    lines = [
        padchest_row(**{"image": f"{chr(97 + number)}.png", "labels": "['normal']"} | cell)
        for number, cell in enumerate(cells)
    ]
    return write_padchest_table(root, lines, **settings)


def read_labels(root, *cells, **options):
    """Label vectors of rows with these cells, by label."""
    source = read(write(root, *cells), **options)
    assert source.quarantined == []
    return [
        {label: row[f"label:{label}"] for label in source.labels if row[f"label:{label}"] != 0}
        for _, row in source.rows.iterrows()
    ]


def reasons(source):
    assert len(dict(source.quarantined)) == len(source.quarantined)
    return dict(source.quarantined)


def test_the_trees_have_the_names_of_the_release():
    assert list(DIFFERENTIAL) == DISEASES
    assert len(FINDINGS) == 170
    names = [*DIFFERENTIAL, *FINDINGS, *TOKENS, NORMAL, EXCLUDE]
    assert len({name.casefold() for name in names}) == len(names) == 193  # as many as in all 160,861 rows
    for tree in (DIFFERENTIAL, FINDINGS):
        assert set().union(*tree.values()) == set(tree)
        for name, counts_for in tree.items():
            assert name in counts_for
            for above in counts_for - {name}:
                assert tree[above] < counts_for  # transitive, and without a cycle


@pytest.mark.parametrize(
    ("name", "counts_for"),
    [
        ("cardiomegaly", set()),
        ("multiple nodules", {"nodule"}),
        ("consolidation", {"alveolar pattern", "infiltrates"}),
        ("air bronchogram", {"consolidation", "alveolar pattern", "infiltrates"}),
        ("hydropneumothorax", {"pneumothorax", "pleural effusion"}),
        ("loculated fissural effusion", {"fissure thickening", "pleural effusion"}),
        (
            "calcified mediastinal adenopathy",
            {"calcified adenopathy", "calcified densities", "adenopathy", "hilar enlargement"},
        ),
        (
            "supra aortic elongation",
            {"aortic elongation", "superior mediastinal enlargement", "mediastinal enlargement"},
        ),
        ("aortic endoprosthesis", {"endoprosthesis", "prosthesis", "surgery"}),
    ],
)
def test_findings_count_for_all_that_is_above_them(name, counts_for):
    assert FINDINGS[name] == {name, *counts_for}


def test_the_19_diseases_are_the_labels_by_default(tmp_path):
    source = read(write(tmp_path, "['normal']"))
    assert source.labels == DISEASES
    assert source.task == "multilabel"
    assert source.official is None


@pytest.mark.parametrize(
    ("cell", "positive"),
    [
        ("['normal']", set()),
        ("['pneumonia']", {"pneumonia"}),
        ("['atypical pneumonia']", {"atypical pneumonia", "pneumonia"}),
        ("['interstitial pattern', ' tuberculosis sequelae ', '']", {"tuberculosis", "tuberculosis sequelae"}),
        ("['asbestosis signs', 'post radiotherapy changes']", {*DISEASES[7:10]}),
        ("['pulmonary venous hypertension']", {"pulmonary hypertension", "pulmonary venous hypertension"}),
        ("['COPD signs', 'unchanged']", {"COPD signs"}),
        ("['copd signs', 'copd signs']", {"COPD signs"}),  # copies of the table are in lower case
        ("['cardiomegaly', 'suboptimal study']", set()),
        ("['subcutaneous emphysema']", set()),  # a finding, and not the disease emphysema
        ("['pulmonary mass', 'hypoexpansion basal']", set()),
        ("['normal', 'unchanged']", set()),
    ],
)
def test_a_disease_is_there_or_not(tmp_path, cell, positive):
    assert read_labels(tmp_path, cell) == [dict.fromkeys([name for name in DISEASES if name in positive], 1)]


def test_findings_are_all_170_whatever_occurs(tmp_path):
    found = read_labels(
        tmp_path,
        "['calcified granuloma', 'pneumonia', 'unchanged']",
        "['normal']",
        "['Chilaiditi sign', 'double J stent', 'NSG tube', 'dai']",
        labels="findings",
    )
    assert [set(row) for row in found] == [
        {"calcified densities", "calcified granuloma", "granuloma"},
        set(),
        {"Chilaiditi sign", "double J stent", "NSG tube", "dai", "electrical device"},
    ]
    assert read(tmp_path, labels="findings").labels == list(FINDINGS)


@pytest.mark.parametrize("options", [{}, {"labels": "findings"}])
@pytest.mark.parametrize("cell", ["", "[]", "['']", "['unchanged']", "['suboptimal study', ' unchanged']"])
def test_a_list_that_names_nothing_leaves_all_labels_unknown(tmp_path, cell, options):
    source = read(write(tmp_path, cell, "['normal']"), **options)
    unknown, normal = source.rows[[f"label:{name}" for name in source.labels]].to_numpy()
    assert np.isnan(unknown).all()
    assert (normal == 0).all()
    assert source.quarantined == []


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("['pneumonia'", "has labels that are not a list: \"['pneumonia'\""),
        ("pneumonia", "has labels that are not a list: 'pneumonia'"),
        ("['pneumonia', nan]", "has labels that are not a list: \"['pneumonia', nan]\""),
        ("['pneumonia', 3]", "has labels that are not a list"),
        ("{'pneumonia': 1}", "has labels that are not a list"),
        ("'pneumonia'", "has labels that are not a list"),
        ("[" * 500, "has labels that are not a list"),
        ("__import__('os').mkdir('x')", "has labels that are not a list"),
        ("['pneumonia', 'cough']", "has the unknown label 'cough'"),
        ("['pneumonia' 'unchanged']", "has the unknown label 'pneumoniaunchanged'"),  # a comma is missing
        ("['normal', 'pneumonia']", "has the contradictory labels \"['normal', 'pneumonia']\""),
        ("['nodule', 'normal']", "has the contradictory labels"),
    ],
)
def test_rows_with_labels_that_cannot_be_read_are_left_out(tmp_path, monkeypatch, cell, reason):
    monkeypatch.chdir(tmp_path)
    source = read(write(tmp_path / "root", cell, "['pneumonia']"))
    assert source.rows["image_id"].tolist() == ["b.png"]
    (found,) = source.quarantined
    assert found[0] == "0/a.png"
    assert found[1].startswith(f"line 2 of {PADCHEST_TABLE} {reason}")
    assert len(found[1]) < 200
    assert not (tmp_path / "x").exists()  # the cell was not run as code


def write_views(root):
    projections = ("PA", "AP", "AP_horizontal", "L", "COSTAL", "EXCLUDE")
    return write(root, *({"Projection": projection} for projection in projections))


def test_projections_are_views_and_what_is_not_asked_for_is_no_entry(tmp_path):
    root = write_views(tmp_path)
    frontal, every = read(root), read(root, views="all")
    assert frontal.rows["view"].tolist() == ["PA", "AP", "AP"]
    assert every.rows["view"].tolist() == ["PA", "AP", "AP", "L"]
    assert (frontal.entries, frontal.quarantined) == (3, [])
    assert (every.entries, every.quarantined) == (4, [])
    ribs = {"views of the ribs, and images marked exclude": 2}
    assert (frontal.unwanted, every.unwanted) == ({"lateral views (views: frontal)": 1} | ribs, ribs)
    for image in ("d.png", "e.png", "f.png"):
        (root / "0" / image).unlink()
    assert read(root).quarantined == []
    assert list(reasons(read(root, views="all"))) == ["d.png"]


def test_a_projection_nobody_knows_is_left_out(tmp_path):
    source = read(write(tmp_path, {"Projection": "AP_vertical"}, {"Projection": ""}, {"Projection": "pa"}))
    assert source.rows["view"].tolist() == ["PA"]
    assert reasons(source) == {
        "0/a.png": f"line 2 of {PADCHEST_TABLE} has the unknown projection 'AP_vertical'",
        "0/b.png": f"line 3 of {PADCHEST_TABLE} has the unknown projection ''",
    }


def test_excluded_images_are_no_entries(tmp_path):
    source = read(write(tmp_path, "['exclude']", "['pneumonia']", "['Exclude', 'unchanged']"))
    assert source.rows["image_id"].tolist() == ["b.png"]
    assert (source.entries, source.quarantined) == (1, [])
    assert source.unwanted == {"views of the ribs, and images marked exclude": 2}


def test_an_image_that_one_row_excludes_and_another_does_not_contradicts_itself(tmp_path):
    same = {"image": "a.png"}
    source = read(write(tmp_path, {**same, "labels": "['exclude']"}, {**same, "labels": "['pneumonia']"}, "['mass']"))
    assert source.rows["image_id"].tolist() == ["c.png"]
    assert [path for path, _ in source.quarantined] == ["0/a.png", "0/a.png"]
    assert all("contradict each other" in reason for _, reason in source.quarantined)
    assert source.entries == 3


def test_ids_are_text_to_the_last_digit(tmp_path):
    patients = ["839860488694292331637988235681460987", "839860488694292331637988235681460988", "007"]
    studies = ["20536686640136348236148679891455886468", "20536686640136348236148679891455886469", "1"]
    rows = [{"PatientID": patient, "StudyID": study} for patient, study in zip(patients, studies, strict=True)]
    found = read(write(tmp_path, *rows)).rows
    assert found["patient_id"].tolist() == found["group_id"].tolist() == patients
    assert found["study_id"].tolist() == studies


def test_ids_that_became_floats_are_themselves_again_or_refused(tmp_path):
    found = read(write(tmp_path / "whole", {"PatientID": "17.0", "StudyID": "4.0"})).rows
    assert found[["patient_id", "study_id"]].iloc[0].tolist() == ["17", "4"]
    with pytest.raises(
        UserError, match=r"column 'PatientID' has '8\.3986E\+35': a spreadsheet seems to have rounded the ids"
    ):
        read(write(tmp_path / "rounded", {"PatientID": "8.3986E+35"}))


def test_an_image_without_a_patient_is_its_own_group(tmp_path):
    rows = read(write(tmp_path, {"PatientID": ""}, {"PatientID": "5"})).rows
    assert rows["group_id"].tolist() == ["a.png", "5"]
    assert rows["patient_id"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("date", "birth", "age"),
    [
        ("20140915", "1952.0", 62),
        ("20140915", "1952", 62),
        ("20140101.0", "2009", 5),  # PED
        ("20140915", "2014.0", 0),
        ("20140915", "1852", 162),  # the gate warns of such ages
        ("20140915", "2019", -5),
        ("20140915", "", math.nan),
        ("", "1952.0", math.nan),
        ("no date", "1952.0", math.nan),
    ],
)
def test_age_is_the_difference_of_years(tmp_path, date, birth, age):
    rows = read(write(tmp_path, {"StudyDate_DICOM": date, "PatientBirth": birth, "Pediatric": "PED"})).rows
    assert rows["age"].tolist() == pytest.approx([age], nan_ok=True)


def test_sex_and_manufacturer(tmp_path):
    rows = read(
        write(
            tmp_path,
            {"PatientSex_DICOM": "M", "Manufacturer_DICOM": "ImagingDynamicsCompanyLtd"},
            {"PatientSex_DICOM": "", "Manufacturer_DICOM": ""},
        )
    ).rows
    assert rows["sex"].fillna("unknown").tolist() == ["M", "unknown"]
    assert rows["source"].fillna("unknown").tolist() == ["ImagingDynamicsCompanyLtd", "unknown"]


@pytest.mark.parametrize("flat", [True, False])
def test_images_lie_in_numbered_folders_or_in_one(tmp_path, flat):
    images = write_padchest(tmp_path, patients=6, flat=flat)
    source = read(tmp_path, views="all")
    assert source.rows["image_id"].tolist() == list(images)
    folders = source.rows["path"].str.removesuffix(".png").str.split("/").str[:-1].str.join("/").tolist()
    assert folders == ([""] * 12 if flat else [str(number // 2 % 3) for number in range(12)])
    assert source.quarantined == []


def test_a_copy_in_another_folder_is_left_out(tmp_path):
    write(tmp_path, "['normal']")
    (tmp_path / "1024").mkdir()
    (tmp_path / "1024" / "a.png").touch()
    source = read(tmp_path)
    assert len(source.rows) == len(source.quarantined) == 1
    assert "a second file of this name" in source.quarantined[0][1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("PADCHEST_chest_x_ray_images_labels_160K.csv", None),
        (f"{PADCHEST_TABLE}.gz", gzip.compress),
        ("chest_x_ray_images_labels_sample.csv", None),
        (PADCHEST_TABLE, lambda text: b"\xef\xbb\xbf" + text),
        (PADCHEST_TABLE, lambda text: text.replace(b"\n", b"\r\n")),
    ],
)
def test_tables_under_other_names_and_in_other_dialects_are_read_alike(tmp_path, name, content):
    write_padchest(tmp_path, patients=6)
    plain = read(tmp_path)
    text = (tmp_path / PADCHEST_TABLE).read_bytes()
    (tmp_path / PADCHEST_TABLE).unlink()
    (tmp_path / name).write_bytes(content(text) if content else text)
    assert read(tmp_path).rows.equals(plain.rows)


def test_semicolons_and_a_table_without_the_index_column(tmp_path):
    write_padchest(tmp_path, patients=6)
    plain = read(tmp_path)
    with (tmp_path / PADCHEST_TABLE).open(newline="") as stream:
        rows = [row[1:] for row in csv.reader(stream)]
    with (tmp_path / PADCHEST_TABLE).open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(rows)
    assert read(tmp_path).rows.equals(plain.rows)


def test_which_table_is_meant_must_be_clear(tmp_path):
    with pytest.raises(UserError, match="no label table in it, PADCHEST_chest_x_ray_images_labels_160K_01"):
        read(tmp_path)
    write(tmp_path, "['normal']")
    write(tmp_path, "['normal']", name="my_padchest_selection.csv")
    with pytest.raises(UserError, match=rf"several label tables, {PADCHEST_TABLE} and my_padchest_selection\.csv"):
        read(tmp_path)


@pytest.mark.parametrize("column", ["ImageID", "PatientID", "Projection", "Labels"])
def test_a_missing_column_is_named_with_its_file(tmp_path, column):
    write(tmp_path, "['normal']", header=PADCHEST_HEADER.replace(f",{column},", ",Cough,"))
    with pytest.raises(UserError, match=rf"01\.02\.19\.csv: column '{column}' is missing; it has .*Cough") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_details_may_be_missing(tmp_path):
    header = PADCHEST_HEADER.replace("PatientBirth", "x").replace("Manufacturer_DICOM", "y").replace("StudyID", "z")
    rows = read(write(tmp_path, "['normal']", header=header)).rows
    assert rows[["age", "source", "study_id"]].isna().all().all()
    assert rows["sex"].tolist() == ["F"]


def test_missing_unlisted_and_repeated_files_are_left_out_with_the_reason(tmp_path):
    pneumonia, same = {"labels": "['pneumonia']"}, {"image": "e.png"}
    write(tmp_path, pneumonia, pneumonia, {"image": "a.png", **pneumonia}, {**same, **pneumonia}, same, "['mass']")
    (tmp_path / "0" / "b.png").unlink()
    (tmp_path / "3").mkdir()
    for name in ("extra.png", "Thumbs.db"):
        (tmp_path / "3" / name).touch()
    source = read(tmp_path)
    assert source.rows["image_id"].tolist() == ["a.png", "f.png"]
    assert sorted(source.quarantined) == [
        ("0/a.png", f"line 4 repeats an earlier row of {PADCHEST_TABLE}"),
        ("0/e.png", f"rows of {PADCHEST_TABLE} contradict each other about this image (line 5)"),
        ("0/e.png", f"rows of {PADCHEST_TABLE} contradict each other about this image (line 6)"),
        ("3/extra.png", f"no row of {PADCHEST_TABLE} names this image"),
        ("b.png", f"listed in {PADCHEST_TABLE} (line 3), but there is no such file"),
    ]
    assert source.entries == 7


def test_no_name_and_no_link_leads_out_of_the_folder(tmp_path):
    root = tmp_path / "root"
    write(root, "['normal']", "['normal']")
    (tmp_path / "secret.png").touch()
    (root / "0" / "a.png").unlink()
    (root / "0" / "a.png").symlink_to(tmp_path / "secret.png")
    with (root / PADCHEST_TABLE).open("a") as stream:
        stream.write(padchest_row("../secret.png", "['normal']") + "\n")
    source = read(root)
    assert source.rows["image_id"].tolist() == ["b.png"]
    assert reasons(source)["0/a.png"] == "is a link that leads out of the data set's folder"
    assert "no such file" in reasons(source)["../secret.png"]


@pytest.mark.parametrize("labels", ["differential", "findings"])
def test_the_whole_folder_goes_through_ingest(tmp_path, labels):
    root = tmp_path / "padchest"
    images = write_padchest(root)
    broken = next(iter(images))  # some files of the release are cut short
    (root / "0" / broken).write_bytes((root / "0" / broken).read_bytes()[:-200])
    ramp = list(images)[2]
    grey = (1000 + np.arange(32 * 32).reshape(32, 32)).astype(np.uint16)  # 10 of 16 bits, and none of them 0
    Image.fromarray(grey).save(root / "1" / ramp)
    data = settings("padchest", root, options={"labels": labels}, max_quarantined=0.05)
    summary = ingest(data, tmp_path / "out", tmp_path / "cache")
    assert (summary.entries, summary.quarantined) == (24, 1)
    assert f"0/{broken},cannot be decoded" in (tmp_path / "out" / "quarantine.csv").read_text()

    dataset = Dataset.open(tmp_path / "out")
    tree = DIFFERENTIAL if labels == "differential" else FINDINGS
    assert dataset.labels == list(tree)
    assert sorted(dataset.manifest["image_id"]) == sorted(image for image in list(images)[::2] if image != broken)
    for row, targets in zip(dataset.manifest.itertuples(), dataset.targets(dataset.manifest), strict=True):
        named = {name.strip() for name in ast.literal_eval(images[row.image_id])}
        expected = set().union(*(counts_for for name, counts_for in tree.items() if name in named))
        assert targets.tolist() == [float(label in expected) for label in dataset.labels]
    shown = dataset.images(dataset.manifest[dataset.manifest["image_id"] == ramp])[0, 0]
    assert np.array_equal(shown, np.rint((grey - 1000.0) * (255 / 1023)).astype(np.uint8))
