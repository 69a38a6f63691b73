"""Entries that are left out, by kind, and advice for each kind."""

import pytest

from medistill.audit.left_out import advise, describe_kinds, group_reasons


def test_reasons_that_differ_in_lines_and_names_alone_are_one_kind():
    left_out = [
        ("a.png", "line 7 repeats an earlier row of t.csv"),
        ("b.png", "its mask masks/b.png is not there"),
        ("c.png", "line 12 repeats an earlier row of t.csv"),
        ("d.png", "a second file of this name, the first is x/d.png"),
        ("e.png", "a second file of this name, the first is y/e.png"),
        ("f.png", "line 3 of t.csv has the contradictory labels 'Mass|None'"),
        ("g.png", "line 4 of t.csv has the contradictory labels 'Edema|None'"),
        ("h.png", "line 9 repeats an earlier row of t.csv"),
        ("i.png", "line 5 of t.csv is of several classes, A and B"),
        ("j.png", "line 6 of t.csv is of several classes, A and B and C"),
    ]
    assert [(reason, len(paths)) for reason, paths in group_reasons(left_out)] == [
        ("line 7 repeats an earlier row of t.csv", 3),
        ("a second file of this name, the first is x/d.png", 2),
        ("line 3 of t.csv has the contradictory labels 'Mass|None'", 2),
        ("line 5 of t.csv is of several classes, A and B", 2),
        ("its mask masks/b.png is not there", 1),
    ]
    lines = describe_kinds(left_out)
    assert lines[0] == "3 such as a.png: line 7 repeats an earlier row of t.csv"
    assert lines[-1] == "b.png: its mask masks/b.png is not there"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("in no class's folder", "move files that are not of this data set out of data.root (old/set/); or"),
        ("listed in t.csv (line 2), but there is no such file", "unpack all images below data.root"),
        ("no row of t.csv names this image", "give each image a row, or move the others out of data.root (old/set/)"),
        (
            "rows of t.csv contradict each other about this image (line 2)",
            "write one row per image; docs/data.md names",
        ),
        ("in none of train_val_list.txt and test_list.txt", "--split patient also uses images that no list names"),
        ("cannot be decoded: image file is truncated", "fetch these files again"),
        ("its mask masks/1.png: the file is empty", "check that each mask is in its place"),
        (
            "line 2 of t.csv is of several classes, A and B",
            "set one column to 1 in each row, or set exclusive: false",
        ),
        ("line 2 of t.csv is of no class: no label is 1", "set one column to 1 in each row"),
        ("line 2 of t.csv has readers who do not agree on a class", "check the readers' labels of these images"),
        (
            'a reader names both a finding and "No finding" for it (train.csv)',
            "check the readers' labels of these images",
        ),
        ("its study has no row in mimic-cxr-2.0.0-negbio.csv.gz", "check that both tables are of the same release"),
        ("line 3 of t.csv has the contradictory labels 'Mass|None'", "correct these rows of the table"),
        ("line 3 of t.csv has the unknown projection 'X'", "correct these rows of the table"),
        ("Target is 1, its class 'Normal'", "correct these rows of the table"),
        ("neither frontal nor lateral", "--set views=all takes them"),
        ("its name is not valid UTF-8; rename the file", "rename these files"),
        ("cannot be read: Permission denied", "check that this user may read these files"),
        ("something new", "repair these files; or"),
    ],
)
def test_advice_is_of_the_most_frequent_kind_and_says_what_limit_lets_all_through(reason, advice):
    left_out = [("old/set/1.png", reason), ("old/set/a/2.png", reason), ("3.png", "another reason")]
    told = advise(left_out, entries=7)
    assert told.startswith(advice)
    assert told.endswith("; or set data.max_quarantined to 0.43 to go on without them")
