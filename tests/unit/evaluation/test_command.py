"""`medistill compare`: tables in any order and dialect, figures by scikit-learn, and mistakes in one line."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from medistill.errors import UserError
from medistill.evaluation.command import Request, compare_tables
from medistill.metrics.bootstrap import draw
from medistill.metrics.intervals import compare
from medistill.metrics.ranking import measure_ranking
from medistill.report.compared import as_text

LABELS = ["Mass", "Nodule", "Hernia"]
IMAGES = 240


@pytest.fixture
def tables(tmp_path):
    """truth.csv, and old.csv and new.csv in another order with rows and a column too many; two images a patient."""
    random = np.random.default_rng(0)
    ids = [f"i{k:03d}" for k in range(IMAGES)]
    targets = (random.random((IMAGES, 3)) < [0.4, 0.3, 0.01]).astype(float)
    targets[::9, 1] = np.nan
    truth = pd.DataFrame({"image_id": ids, "patient": [f"p{k // 2}" for k in range(IMAGES)]})
    truth["sex"] = ["F", "F", "M", "M"] * (IMAGES // 4)
    for k, label in enumerate(LABELS):
        truth[label] = [("" if math.isnan(value) else str(int(value))) for value in targets[:, k]]
    truth.to_csv(tmp_path / "truth.csv", index=False)
    for seed, (name, strength) in enumerate({"old": 1.0, "new": 2.0}.items()):
        answers = pd.DataFrame({"image_id": [*ids, "another"]})
        noise = np.random.default_rng(seed).normal(size=(IMAGES + 1, 3))
        given = np.vstack([np.nan_to_num(targets), np.zeros(3)])
        for k, label in enumerate(LABELS):
            answers[label] = 1 / (1 + np.exp(1 - strength * given[:, k] - noise[:, k]))
        answers["more"] = "text"
        answers.sample(frac=1, random_state=seed).to_csv(tmp_path / f"{name}.csv", index=False, sep=";,"[seed])
    return tmp_path


def request(folder, *names, **changes) -> Request:
    given = {"predictions": [folder / f"{name}.csv" for name in names], "truth": folder / "truth.csv", "resamples": 200}
    return Request(**given | {"group": "patient"} | changes)


def read(folder, name) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv", sep=None, engine="python").set_index("image_id")


def test_figures_are_scikit_learns_by_id(tables):
    found = compare_tables(request(tables, "old", "new", by=["sex"]))
    truth = pd.read_csv(tables / "truth.csv").set_index("image_id")
    for name in ("old", "new"):
        described, answers = found.models[name], read(tables, name).loc[truth.index]
        assert described.labels == ["Mass", "Nodule"]
        for label in ("Mass", "Nodule"):
            known = truth[label].notna()
            given = truth.loc[known, label], answers.loc[known, label]
            figures = described.per_label[label]
            assert figures.figure("auroc").estimate == pytest.approx(roc_auc_score(*given), abs=1e-12)
            assert figures.figure("brier").estimate == pytest.approx(brier_score_loss(*given), abs=1e-12)
        assert (described.images, described.groups) == (IMAGES, IMAGES // 2)
        assert [group.group for group in found.subgroups[name]] == ["F", "M"]
        women = truth["sex"] == "F"
        parts = [women & truth[label].notna() for label in ("Mass", "Nodule")]
        means = [roc_auc_score(truth.loc[p, la], answers.loc[p, la]) for p, la in zip(parts, LABELS, strict=False)]
        assert found.subgroups[name][0].auroc.estimate == pytest.approx(np.mean(means), abs=1e-12)


def test_the_others_are_compared_with_the_first_in_the_same_resamples(tables):
    found = compare_tables(request(tables, "old", "new"))
    assert {(row.model, row.reference) for row in found.comparisons} == {("new", "old")}
    truth = pd.read_csv(tables / "truth.csv").set_index("image_id")
    _, groups = np.unique(truth["patient"], return_inverse=True)
    targets, counts = truth[LABELS[:2]].to_numpy(float), draw(IMAGES // 2, 200, 0)
    first, second = (
        measure_ranking(targets, read(tables, name).loc[truth.index, LABELS[:2]].to_numpy(), groups, counts)[0]
        for name in ("old", "new")
    )
    estimate, p = compare(second.mean(axis=1), first.mean(axis=1), counts)
    row = next(row for row in found.comparisons if row.metric == "macro_auroc")
    assert (row.interval, row.p) == (estimate, p)
    assert estimate.lower > 0


def test_logits_and_probabilities_of_them_say_the_same(tables):
    logits = read(tables, "old")[LABELS].apply(lambda p: np.log(p / (1 - p)))
    logits.to_csv(tables / "logits.csv")
    ours = compare_tables(request(tables, "logits", logits=True)).models["logits"]
    theirs = compare_tables(request(tables, "old")).models["old"]
    for key in ("macro_auroc", "macro_brier", "macro_calibration_slope"):
        assert ours.figure(key).estimate == pytest.approx(theirs.figure(key).estimate, abs=1e-9)


def test_a_label_that_one_model_lacks_is_compared_in_none_of_its_means(tables):
    read(tables, "new")[["Mass"]].to_csv(tables / "new.csv")
    found = compare_tables(request(tables, "old", "new"))
    assert found.models["new"].figure("macro_auroc").estimate is None
    assert found.models["new"].per_label["Mass"].figure("auroc").estimate > 0.5
    assert "–" in as_text(found)


def test_exclusive_classes_have_an_accuracy(tmp_path):
    random = np.random.default_rng(0)
    truth = np.eye(3, dtype=int)[random.integers(0, 3, 120)]
    chances = np.exp(1.5 * truth + random.normal(size=truth.shape))
    chances /= chances.sum(axis=1, keepdims=True)
    for name, values in {"truth": truth, "old": chances}.items():
        table = pd.DataFrame(values, columns=LABELS)
        table.insert(0, "id", range(120))
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    found = compare_tables(request(tmp_path, "old", group=None, exclusive=True))
    right = (chances.argmax(axis=1) == truth.argmax(axis=1)).mean()
    assert found.models["old"].figure("accuracy").estimate == pytest.approx(right)
    assert "accuracy" in as_text(found)
    assert found.notes == [
        "no --group: each image counts as a patient of its own, and intervals are too narrow if it is not"
    ]


def test_the_text_says_what_was_measured(tables):
    text = as_text(compare_tables(request(tables, "old", "new", by=["sex"])))
    assert text.startswith(
        "240 images of 120 patients or groups, 2 of 3 labels eligible\n  left out of the means: Hernia ("
    )
    assert "new − old  mean AUROC" in text
    assert "new − old  AUROC of Mass" in text
    assert "sex: F" in text


def change(folder, name: str, line: int, column: str, value: str) -> None:
    file = folder / f"{name}.csv"
    rows = [row.split("," if "," in file.read_text().splitlines()[0] else ";") for row in file.read_text().splitlines()]
    rows[line - 1][rows[0].index(column)] = value
    file.write_text("\n".join(",".join(row) for row in rows) + "\n")


@pytest.mark.parametrize(
    ("name", "line", "column", "value", "said"),
    [
        ("truth", 7, "Mass", "yes", r"truth\.csv: line 7: column 'Mass' 'yes' is neither 1, 0 nor empty"),
        ("truth", 7, "Mass", "-1", r"truth\.csv: line 7: column 'Mass' '-1' is neither 1, 0 nor empty"),
        ("truth", 7, "patient", "", r"truth\.csv: line 7: column 'patient' is empty"),
        ("truth", 7, "image_id", "", r"truth\.csv: line 7: column 'image_id' is empty"),
        ("truth", 7, "image_id", "i000", r"truth\.csv: line 7: column 'image_id' 'i000' is there a second time"),
        (
            "old",
            5,
            "Nodule",
            "1.5",
            r"old\.csv: line 5: column 'Nodule' '1\.5' is no probability; logits need --logits",
        ),
        ("old", 5, "Nodule", "nan", r"old\.csv: line 5: column 'Nodule' 'nan' is no finite number"),
        ("old", 5, "Nodule", "", r"old\.csv: line 5: column 'Nodule' is no finite number"),
        ("old", 5, "image_id", "other", r"old\.csv: lacks 1 image of .*truth\.csv, first i\d+"),
        ("old", 1, "image_id", "name", r"old\.csv: has no column 'image_id'; it has name, "),
        ("truth", 1, "patient", "case", r"truth\.csv: has no column 'patient'; it has image_id, case"),
    ],
)
def test_a_mistake_is_named_with_its_line(tables, name, line, column, value, said):
    change(tables, name, line, column, value)
    with pytest.raises(UserError, match=said) as error:
        compare_tables(request(tables, "old", "new"))
    assert "\n" not in str(error.value)


def test_what_cannot_be_compared(tables):
    with pytest.raises(UserError, match="--by colour: known are sex, age, view, source"):
        compare_tables(request(tables, "old", by=["colour"]))
    with pytest.raises(UserError, match="two predictions have the same file name"):
        compare_tables(request(tables, "old", "old"))
    with pytest.raises(UserError, match=r"missing\.csv: no such file"):
        compare_tables(request(tables, "missing"))
    with pytest.raises(UserError, match=r"truth\.csv: line \d+: column 'Mass' .* an image has exactly one class"):
        compare_tables(request(tables, "old", exclusive=True))
    read(tables, "old")[["more"]].to_csv(tables / "none.csv")
    with pytest.raises(UserError, match=r"no column but image_id, patient is in .*none\.csv"):
        compare_tables(request(tables, "none"))


def test_json_holds_what_was_measured(tables):
    found = compare_tables(request(tables, "old", "new", by=["sex"]))
    again = json.loads(json.dumps(found.to_json()))
    assert again["models"]["new"]["macro_auroc"]["estimate"] == found.models["new"].figure("macro_auroc").estimate
    assert [group["group"] for group in again["subgroups"]["new"]] == ["F", "M"]
    assert again["comparisons"][0]["model"] == "new"
