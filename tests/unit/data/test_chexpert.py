"""CheXpert trees: policies for uncertain and blank cells, views, splits, and what is left out."""

import csv
import gzip
import math
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from medistill.data import splits
from medistill.data.adapters.chexpert import LABELS
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_cxr import CHEXPERT_HEADER, CHEXPERT_LABELS, chexpert_row, write_chexpert, write_chexpert_table
from tests.trees_tiles import read_whole, settings

NAN = math.nan
ONE = "train/patient00001/study1/view1_frontal.jpg"
LATERAL = "train/patient00001/study1/view2_lateral.jpg"
TWO = "train/patient00002/study1/view1_frontal.jpg"


def read(root, **options):
    return read_whole("chexpert", root, **options)


def label(source, name):
    return source.rows[f"label:{name}"].tolist()


def reasons(source):
    assert len(dict(source.quarantined)) == len(source.quarantined)
    return dict(source.quarantined)


def same(found, expected):
    return len(found) == len(expected) and np.array_equal(found, np.array(expected, float), equal_nan=True)


def test_the_14_labels_are_those_of_the_tables_in_their_order(tmp_path):
    source = read(write_chexpert_table(tmp_path, [chexpert_row(ONE)]))
    assert source.labels == CHEXPERT_LABELS.split(",")
    assert (len(source.labels), source.task) == (14, "multilabel")


def row_of_each_value(path=ONE):
    return chexpert_row(path, Edema="1.0", Fracture="0.0", Atelectasis="-1.0", Pneumonia="-1.0")


@pytest.mark.parametrize(
    ("options", "atelectasis", "pneumonia", "blank"),
    [
        ({}, NAN, NAN, 0),
        ({"uncertainty": "ignore"}, NAN, NAN, 0),
        ({"uncertainty": "ones"}, 1, 1, 0),
        ({"uncertainty": "zeros"}, 0, 0, 0),
        ({"uncertainty": {"Atelectasis": "ones"}}, 1, NAN, 0),
        ({"uncertainty": {"Atelectasis": "ones", "default": "zeros"}}, 1, 0, 0),
        ({"uncertainty": {"default": "ones", "Pneumonia": "ignore"}}, 1, NAN, 0),
        ({"blank": "zeros"}, NAN, NAN, 0),
        ({"blank": "ignore"}, NAN, NAN, NAN),
        ({"blank": "ignore", "uncertainty": "ones"}, 1, 1, NAN),
    ],
)
def test_uncertain_and_blank_cells_count_as_the_options_say(tmp_path, options, atelectasis, pneumonia, blank):
    source = read(write_chexpert_table(tmp_path, [row_of_each_value()]), **options)
    expected = dict.fromkeys(LABELS, blank)
    expected |= {"Edema": 1, "Fracture": 0, "Atelectasis": atelectasis, "Pneumonia": pneumonia}
    values = source.rows[[f"label:{name}" for name in LABELS]]
    assert same(values.iloc[0], [expected[name] for name in LABELS])
    assert set(values.dtypes.astype(str)) == {"float32"}


def test_every_label_has_its_own_policy(tmp_path):
    table = write_chexpert_table(tmp_path, [chexpert_row(ONE, **dict.fromkeys(LABELS, "-1.0"))])
    policies = {name: ("ones", "zeros", "ignore")[number % 3] for number, name in enumerate(LABELS)}
    values = read(table, uncertainty=policies).rows.filter(like="label:").iloc[0]
    assert same(values, [(1, 0, NAN)[number % 3] for number in range(14)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertainty": "maybe"}, r"uncertainty\.default: input should be 'ones', 'zeros' or 'ignore'"),
        (
            {"uncertainty": {"Effusion": "ones"}},
            "uncertainty: 'Effusion' is no label; known are No Finding, .*, Pleural Effusion, .* and default$",
        ),
        ({"uncertainty": {"Edema": -1}}, r"uncertainty\.Edema: input should be 'ones'"),
        ({"blank": "ones"}, "blank: input should be 'zeros' or 'ignore'"),
        ({"views": "lateral"}, "views: input should be 'frontal' or 'all'"),
        ({"policy": "ones"}, "key policy is unknown"),
    ],
)
def test_options_that_nobody_knows_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=rf"params\.yaml: data\.options: .*{message}") as caught:
        read(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_labels_with_underscores_are_the_same(tmp_path):
    header = CHEXPERT_HEADER.replace("Pleural Effusion", "Pleural_Effusion").replace("No Finding", "No_Finding")
    row = chexpert_row(ONE, No_Finding="1.0", Pleural_Effusion="-1.0")
    source = read(write_chexpert_table(tmp_path, [row], header=header), uncertainty={"Pleural_Effusion": "ones"})
    assert source.labels == list(LABELS)
    assert label(source, "No Finding") == label(source, "Pleural Effusion") == [1]


def test_airspace_opacity_is_lung_opacity_and_lung_lesion_is_not(tmp_path):
    header = CHEXPERT_HEADER.replace("Lung Opacity", "Airspace Opacity")
    source = read(write_chexpert_table(tmp_path, [chexpert_row(ONE, Lung_Opacity="1.0")], header=header))
    assert label(source, "Lung Opacity") == [1]
    assert label(source, "Lung Lesion") == [0]


@pytest.mark.parametrize("cell", ["1", "1.0", "1.00", " 1.0 "])
def test_numbers_may_be_written_in_several_ways(tmp_path, cell):
    assert label(read(write_chexpert_table(tmp_path, [chexpert_row(ONE, Edema=cell)])), "Edema") == [1]


@pytest.mark.parametrize("cell", ["2.0", "0.5", "yes", "-1.5", "10"])
def test_a_value_nobody_knows_is_named_with_file_line_and_column(tmp_path, cell):
    write_chexpert_table(tmp_path, [chexpert_row(ONE), chexpert_row(TWO, Lung_Lesion=cell)])
    with pytest.raises(UserError, match=rf"train\.csv: line 3: column 'Lung Lesion' has '{cell}'; known are 1, 0, -1"):
        read(tmp_path)


@pytest.mark.parametrize("column", ["Path", "No Finding", "Pleural Effusion", "Support Devices"])
def test_a_missing_column_is_named_with_its_file(tmp_path, column):
    write_chexpert_table(tmp_path, [chexpert_row(ONE)], header=CHEXPERT_HEADER.replace(column, "Cough"))
    with pytest.raises(UserError, match=rf"train\.csv: column '{column}' is missing; it has .*Cough") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small/", "CheXpert-v1.0/", "my copy/", ""])
def test_any_prefix_of_the_paths_is_read(tmp_path, prefix):
    write_chexpert_table(tmp_path, [chexpert_row(prefix + ONE), chexpert_row(prefix + TWO)], prefix=prefix)
    source = read(tmp_path)
    assert source.rows["image_id"].tolist() == source.rows["path"].tolist() == [ONE, TWO]
    assert source.quarantined == []


@pytest.mark.parametrize("folder", ["CheXpert-v1.0-small", "CheXpert-v1.0", "any name"])
def test_the_root_may_be_the_folder_above(tmp_path, folder):
    prefix = "CheXpert-v1.0-small/"  # even if the folder has another name
    write_chexpert_table(tmp_path / folder, [chexpert_row(prefix + ONE)], prefix=prefix)
    (tmp_path / "__MACOSX").mkdir()
    shutil.copy(tmp_path / folder / "train.csv", tmp_path / "__MACOSX")
    above, itself = read(tmp_path), read(tmp_path / folder)
    assert above.rows["path"].tolist() == [f"{folder}/{ONE}"]
    assert itself.rows["path"].tolist() == [ONE]
    assert above.rows.drop(columns="path").equals(itself.rows.drop(columns="path"))  # the ids, too


def test_two_copies_below_the_root_are_one_too_many(tmp_path):
    for folder in ("CheXpert-v1.0", "CheXpert-v1.0-small"):
        write_chexpert_table(tmp_path / folder, [chexpert_row(ONE)])
    with pytest.raises(UserError, match=r"train\.csv is in CheXpert-v1\.0 and in CheXpert-v1\.0-small; set data\.root"):
        read(tmp_path)


def test_tables_may_be_packed_by_gzip(tmp_path):
    write_chexpert(tmp_path / "a", patients=4, valid=2, test=2)
    plain = read(tmp_path / "a")
    for name in ("train.csv", "valid.csv", "test_labels.csv"):
        file = tmp_path / "a" / name
        file.with_name(f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    for root in (tmp_path / "a", tmp_path):
        packed = read(root)
        assert packed.rows.drop(columns="path").equals(plain.rows.drop(columns="path"))
        assert packed.official.equals(plain.official)
    assert packed.official_files == "train.csv.gz and valid.csv.gz and test_labels.csv.gz"


def test_a_folder_that_is_not_the_data_set_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; set data\.root"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no train\.csv in it; data\.root must be the folder that holds it"):
        read(tmp_path)


def write_views(root):
    return write_chexpert_table(
        root,
        [
            chexpert_row(ONE),
            chexpert_row(LATERAL, plane="Lateral", view=""),
            chexpert_row(TWO, view="PA"),
            chexpert_row("train/patient00003/study1/view1_frontal.jpg", view="LL"),
            chexpert_row("train/patient00004/study1/view1_frontal.jpg", view="RL"),
            chexpert_row("train/patient00005/study1/view1_frontal.jpg", view=""),
        ],
    )


def test_laterals_are_no_entries_unless_asked_for(tmp_path):
    root = write_views(tmp_path)
    frontal, every = read(root), read(root, views="all")
    assert frontal.rows["view"].fillna("unknown").tolist() == ["AP", "PA", "LL", "RL", "unknown"]
    assert every.rows["view"].fillna("unknown").tolist() == ["AP", "L", "PA", "LL", "RL", "unknown"]
    # without `views: all` neither the row nor the file of a lateral image is an entry
    assert (frontal.entries, frontal.quarantined) == (5, [])
    assert (every.entries, every.quarantined) == (6, [])
    assert (frontal.unwanted, every.unwanted) == ({"lateral views (views: frontal)": 1}, {})


def test_a_table_that_is_cut_off_is_refused(tmp_path):
    """Its last row would have blanks, and a blank counts as 0: the finding would be said to be absent."""
    write_chexpert_table(tmp_path, [chexpert_row(ONE), chexpert_row(LATERAL, Support_Devices="1.0")])
    text = (tmp_path / "train.csv").read_text()
    for cut, column in ((5, "Support Devices"), (7, "Pleural Other")):
        (tmp_path / "train.csv").write_text(text[:-cut])
        with pytest.raises(UserError, match=rf"train\.csv: line 3 ends before column '({column})"):
            read(tmp_path)


def test_a_missing_lateral_is_missed_only_if_asked_for(tmp_path):
    (write_views(tmp_path) / LATERAL).unlink()
    assert read(tmp_path).quarantined == []
    assert reasons(read(tmp_path, views="all")) == {
        LATERAL: "listed in the tables (line 3 of train.csv), but there is no such file"
    }


def test_where_the_table_is_silent_the_file_name_says_what_a_view_is(tmp_path):
    silent = "train/patient00001/study1/view3.jpg"
    rows = [chexpert_row(path, plane="", view="") for path in (ONE, LATERAL, silent)]
    write_chexpert_table(tmp_path, rows)
    source = read(tmp_path)
    assert source.rows["path"].tolist() == [ONE]
    assert reasons(source) == {silent: "neither frontal nor lateral"}
    every = read(tmp_path, views="all")
    assert every.rows["view"].fillna("unknown").tolist() == ["unknown", "L", "unknown"]


def test_studies_are_numbered_within_their_patient(tmp_path):
    paths = [f"train/patient{patient:05d}/study{study}/view1_frontal.jpg" for patient in (1, 2) for study in (1, 2)]
    rows = read(write_chexpert_table(tmp_path, map(chexpert_row, paths))).rows
    assert rows["study_id"].tolist() == [
        "patient00001/study1",
        "patient00001/study2",
        "patient00002/study1",
        "patient00002/study2",
    ]
    assert rows["patient_id"].tolist() == rows["group_id"].tolist()
    assert rows["group_id"].tolist() == ["patient00001"] * 2 + ["patient00002"] * 2


def test_sex_and_age_and_what_stands_for_unknown(tmp_path):
    people = [("Male", "68"), ("Female", "90"), ("Unknown", "0"), ("", ""), ("Other", "411")]
    rows = [
        chexpert_row(f"train/patient{number:05d}/study1/view1_frontal.jpg", Sex=sex, Age=age)
        for number, (sex, age) in enumerate(people)
    ]
    found = read(write_chexpert_table(tmp_path, rows)).rows
    assert found["sex"].fillna("unknown").tolist() == ["M", "F", "unknown", "unknown", "OTHER"]  # the gate warns of it
    assert same(found["age"], [68, 90, NAN, NAN, 411])


def by_table(root, *names):
    """A row in each table."""
    for number, name in enumerate(names):
        folder = {"train.csv": "train", "valid.csv": "valid"}.get(name, "test")
        path = f"{folder}/patient{number:05d}/study1/view1_frontal.jpg"
        write_chexpert_table(root, [chexpert_row(path)], name=name)
    return read(root)


@pytest.mark.parametrize(
    ("tables", "splits"),
    [
        (("train.csv", "valid.csv"), ["train", "test"]),
        (("train.csv", "valid.csv", "test.csv"), ["train", "val", "test"]),
        (("train.csv", "valid.csv", "test_labels.csv"), ["train", "val", "test"]),
        (("train.csv", "test_labels.csv"), ["train", "test"]),
    ],
)
def test_valid_tests_unless_there_is_a_test_table(tmp_path, tables, splits):
    source = by_table(tmp_path, *tables)
    assert source.official.tolist() == splits
    assert source.official_files == " and ".join(tables)


def test_without_a_second_table_there_is_no_official_split(tmp_path):
    source = by_table(tmp_path, "train.csv")
    assert source.official is None
    assert source.official_files == "train.csv and valid.csv"


def test_test_labels_have_nothing_but_path_and_labels(tmp_path):
    write_chexpert(tmp_path, patients=2, valid=1, test=2)
    assert (tmp_path / "test_labels.csv").read_text().splitlines()[0] == f"Path,{CHEXPERT_LABELS}"
    source = read(tmp_path, views="all")
    rows = source.rows[source.official == "test"]
    assert rows["patient_id"].unique().tolist() == ["patient64741", "patient64742"]
    assert rows["view"].fillna("unknown").tolist() == ["unknown", "L", "unknown"] * 2
    assert rows[["sex", "age"]].isna().all().all()
    assert len(read(tmp_path).rows) == 2 * 5  # without laterals


def test_a_patient_in_two_tables_is_named(tmp_path):
    write_chexpert_table(tmp_path, [chexpert_row(ONE)])
    write_chexpert_table(tmp_path, [chexpert_row(ONE.replace("train", "valid"))], name="valid.csv")
    source = read(tmp_path)
    with pytest.raises(UserError, match=r"train\.csv and valid\.csv: group patient00001 is in two splits"):
        splits.official(source.rows["group_id"], source.official, val_fraction=0.1, seed=0, files=source.official_files)


def test_an_image_in_two_tables_contradicts_itself(tmp_path):
    write_chexpert_table(tmp_path, [chexpert_row(ONE), chexpert_row(TWO)])
    write_chexpert_table(tmp_path, [chexpert_row(ONE)], name="valid.csv")
    source = read(tmp_path)
    assert source.rows["path"].tolist() == [TWO]
    assert sorted(source.quarantined) == [
        (ONE, "rows of the tables contradict each other about this image (line 2 of train.csv)"),
        (ONE, "rows of the tables contradict each other about this image (line 2 of valid.csv)"),
    ]


def test_repeated_rows_are_left_out_and_contradicting_ones_altogether(tmp_path):
    rows = [chexpert_row(ONE), chexpert_row(ONE), chexpert_row(TWO, Edema="1.0"), chexpert_row(TWO, Edema="0.0")]
    source = read(write_chexpert_table(tmp_path, rows))
    assert source.rows["path"].tolist() == [ONE]
    assert sorted(source.quarantined) == [
        (ONE, "line 3 of train.csv repeats an earlier row of the tables"),
        (TWO, "rows of the tables contradict each other about this image (line 4 of train.csv)"),
        (TWO, "rows of the tables contradict each other about this image (line 5 of train.csv)"),
    ]
    assert source.entries == 4


def test_an_image_that_is_frontal_and_lateral_contradicts_itself(tmp_path):
    source = read(write_chexpert_table(tmp_path, [chexpert_row(ONE), chexpert_row(ONE, plane="Lateral")]))
    assert (source.entries, len(source.rows), len(source.quarantined)) == (2, 0, 2)


def test_missing_and_unlisted_files_are_left_out_with_the_reason(tmp_path):
    write_chexpert_table(tmp_path, [chexpert_row(ONE), chexpert_row(TWO)])
    (tmp_path / TWO).unlink()
    spare, unread = "train/patient00009/study1/view1_frontal.jpg", "valid/spare.jpg"  # without valid.csv
    for path in (spare, unread, "valid/Thumbs.db", "other/x.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    source = read(tmp_path)
    assert reasons(source) == {
        TWO: "listed in the tables (line 3 of train.csv), but there is no such file",
        spare: "no row of the tables names this image",
        unread: "no row of the tables names this image",
    }
    assert source.entries == 4


def test_a_path_that_names_no_patient_is_left_out(tmp_path):
    odd = "train/view1_frontal.jpg"
    source = read(write_chexpert_table(tmp_path, [chexpert_row(ONE), chexpert_row(odd)]))
    assert source.rows["path"].tolist() == [ONE]
    assert "its path is not of the form train/patient00001/study1" in reasons(source)[odd]


def test_no_path_and_no_link_leads_out_of_the_folder(tmp_path):
    root = tmp_path / "root"
    out = "train/patient00003/study1/../../../../secret.jpg"
    write_chexpert_table(root, [chexpert_row(ONE), chexpert_row(TWO)])
    (tmp_path / "secret.jpg").touch()
    with (root / "train.csv").open("a") as stream:
        stream.write(chexpert_row(out) + "\n")
    (root / TWO).unlink()
    (root / TWO).symlink_to(tmp_path / "secret.jpg")
    source = read(root)
    assert source.rows["path"].tolist() == [ONE]
    assert reasons(source)[TWO] == "is a link that leads out of the data set's folder"
    assert len(source.quarantined) == 2
    shutil.move(root / "train" / "patient00002", tmp_path / "elsewhere")
    (root / "train" / "patient00002").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="patient00002: is a link that leads out of"):
        read(root)


@pytest.mark.parametrize("dialect", ["byte order mark", "semicolons", "CRLF", "UTF-16"])
def test_tables_in_another_dialect_are_read_alike(tmp_path, dialect):
    write_chexpert(tmp_path, patients=3, valid=2)
    plain = read(tmp_path)
    for name in ("train.csv", "valid.csv"):
        text = (tmp_path / name).read_text()
        content = {
            "byte order mark": b"\xef\xbb\xbf" + text.encode(),
            "semicolons": text.replace(",", ";").encode(),
            "CRLF": text.replace("\n", "\r\n").encode(),
            "UTF-16": text.encode("utf-16"),
        }[dialect]
        (tmp_path / name).write_bytes(content)
    found = read(tmp_path)
    assert found.rows.equals(plain.rows)
    assert found.official.equals(plain.official)


@pytest.mark.parametrize("above", [True, False])
def test_the_whole_folder_goes_through_ingest(tmp_path, above):
    base = tmp_path / "CheXpert-v1.0-small"
    paths = write_chexpert(base, valid=6)
    (base / paths["train"][0]).write_bytes(b"")
    data = settings(
        "chexpert",
        tmp_path if above else base,
        split="official",
        val_fraction=0.25,
        max_quarantined=0.05,
        options={"uncertainty": {"Edema": "ones", "default": "ignore"}},
    )
    summary = ingest(data, tmp_path / "out", tmp_path / "cache")
    frontal = 24 * 2 + 6 * 2
    assert (summary.entries, summary.quarantined) == (frontal, 1)

    dataset = Dataset.open(tmp_path / "out")
    manifest = dataset.manifest.set_index("image_id")
    assert len(manifest) == frontal - 1
    assert manifest.groupby("group_id")["split"].nunique().max() == 1
    patients = manifest.index.str.split("/").str[:2].str.join("/")
    assert (manifest["split"][patients.str.startswith("valid")] == "test").all()
    assert set(manifest["split"][patients.str.startswith("train")]) == {"train", "val"}
    prefix = "CheXpert-v1.0-small/" if above else ""
    assert (manifest["path"] == prefix + manifest.index).all()

    # labels once more, straight from the tables
    value_of = {"1.0": 1, "0.0": 0, "-1.0": NAN, "": 0}
    targets = dict(zip(dataset.manifest["image_id"], dataset.targets(dataset.manifest), strict=True))
    for name in ("train.csv", "valid.csv"):
        with open(base / name, newline="") as stream:
            for row in csv.DictReader(stream):
                image = os.path.relpath(row["Path"], "CheXpert-v1.0-small")
                if row["Frontal/Lateral"] == "Lateral" or image == paths["train"][0]:
                    assert image not in targets
                    continue
                expected = [value_of[row[name]] for name in LABELS]
                if row["Edema"] == "-1.0":
                    expected[LABELS.index("Edema")] = 1
                assert same(targets.pop(image), expected), image
    assert not targets
    shown = dataset.images(dataset.manifest[dataset.manifest["image_id"] == paths["train"][2]])[0, 0].astype(float)
    drawn = np.asarray(Image.open(base / paths["train"][2]).resize((32, 26), Image.Resampling.BILINEAR), float)
    assert np.abs(shown[3:29] - drawn).max() <= 1  # 40x32 with a black bar of 3 pixels above and below
