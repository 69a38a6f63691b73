"""The stage `evaluate` on made-up targets and predictions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.repo import Repo
from evaluated_project import HOSTILE, LABELS, RARE, ROOT, write_model, write_project
from scipy.special import softmax
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from medistill.errors import UserError
from medistill.evaluation.figures import figures_of
from medistill.params import load_params
from medistill.task import Task
from pipeline.stages import evaluate
from tests.seal import seal

ELIGIBLE = [label for label in LABELS if label != RARE]
TEACHERS = ["densenet", "efficientnet_lite2"]
STUDENTS = [
    "eeea_net_c2-baseline-0",
    "eeea_net_c2-kd-0",
    "tf_efficientnet_lite0-baseline-0",
    "tf_efficientnet_lite0-kd-0",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after `evaluate`."""
    root = tmp_path_factory.mktemp("project")
    write_project(root)
    run(root)
    return root


def run(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert evaluate.main([]) == 0


def metrics(root: Path) -> dict:
    return json.loads((root / "reports" / "metrics.json").read_text())


def truth_and_logits(root: Path, model: str, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Targets and logits joined by image, without the stage's own reader."""
    kind = "teachers" if model in TEACHERS else "students"
    predicted = pd.read_parquet(root / "models" / kind / model / "predictions.parquet").set_index("image_id")
    truth = pd.read_parquet(root / "data" / "processed" / "manifest.parquet").set_index("image_id")
    truth = truth[truth["split"] == split]
    return truth, predicted.loc[truth.index]


def oracle(root: Path, model: str, split: str, score) -> float:
    truth, predicted = truth_and_logits(root, model, split)
    values = []
    for label in ELIGIBLE:
        known = truth[f"label:{label}"].notna()
        values.append(score(truth.loc[known, f"label:{label}"], predicted.loc[known, f"logit:{label}"]))
    return float(np.mean(values))


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("model", ["densenet", "eeea_net_c2-kd-0"])
def test_macro_figures_are_those_of_scikit_learn(project, model, split):
    entry = metrics(project)[model][split]
    assert entry["macro_auroc"] == pytest.approx(oracle(project, model, split, roc_auc_score), abs=1e-12)
    assert entry["macro_auprc"] == pytest.approx(oracle(project, model, split, average_precision_score), abs=1e-12)
    assert entry["macro_auroc_lower"] < entry["macro_auroc"] < entry["macro_auroc_upper"]
    assert entry["eligible_labels"] == 3


def test_exclusive_classes_are_measured_on_the_softmax_and_have_an_accuracy(tmp_path):
    write_project(tmp_path, task="multiclass")
    run(tmp_path)
    for model in ("densenet", "eeea_net_c2-kd-0"):
        for split in ("val", "test"):
            truth, predicted = truth_and_logits(tmp_path, model, split)
            targets = truth[[f"label:{label}" for label in LABELS]].to_numpy()
            known = ~np.isnan(targets).any(axis=1)
            logits = predicted[[f"logit:{label}" for label in LABELS]].to_numpy(np.float64)
            targets, chances = targets[known], softmax(logits[known], axis=1)
            classes, named = targets.argmax(axis=1), chances.argmax(axis=1)
            eligible = [LABELS.index(label) for label in ELIGIBLE]
            entry = metrics(tmp_path)[model][split]
            expected = roc_auc_score(targets[:, eligible], chances[:, eligible])
            assert entry["macro_auroc"] == pytest.approx(expected, abs=1e-12)
            assert entry["accuracy"] == pytest.approx(accuracy_score(classes, named), abs=1e-12)
            assert entry["accuracy_lower"] < entry["accuracy"] < entry["accuracy_upper"]
            assert entry["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(classes, named), abs=1e-12)
    table = pd.read_csv(tmp_path / "reports" / "comparisons.csv")
    assert {"macro_auroc", "accuracy", "balanced_accuracy", "label:Mass"} <= set(table["metric"])
    assert f"label:{RARE}" not in set(table["metric"])


def test_metrics_hold_numbers_only_for_every_model(project):
    def leaves(value):
        return [leaf for item in value.values() for leaf in leaves(item)] if isinstance(value, dict) else [value]

    assert set(metrics(project)) == {*TEACHERS, *STUDENTS}
    assert all(isinstance(leaf, int | float) and not isinstance(leaf, bool) for leaf in leaves(metrics(project)))


def test_differences_are_to_the_better_baseline_and_the_best_teacher_on_validation(project):
    numbers = metrics(project)
    best = max(TEACHERS, key=lambda name: numbers[name]["val"]["macro_auroc"])
    for split in ("val", "test"):
        kd, baseline = numbers["eeea_net_c2-kd-0"][split], numbers["eeea_net_c2-baseline-0"][split]
        assert kd["difference_baseline"] == pytest.approx(kd["macro_auroc"] - baseline["macro_auroc"], abs=1e-12)
        assert kd["difference_teacher"] == pytest.approx(kd["macro_auroc"] - numbers[best][split]["macro_auroc"])
        assert kd["difference_teacher_lower"] < kd["difference_teacher"] < kd["difference_teacher_upper"]
        assert "difference_baseline" not in baseline
        assert "difference_teacher" in baseline


def test_every_label_is_described_and_the_skipped_one_says_why(project):
    report = json.loads((project / "reports" / "evaluation" / "eeea_net_c2-kd-0.json").read_text())["test"]
    truth, predicted = truth_and_logits(project, "eeea_net_c2-kd-0", "test")
    assert report["labels"] == ELIGIBLE
    assert report["skipped"] == {RARE: "3 positives, fewer than 10"}
    assert report["images"] == 240
    assert report["groups"] == 120
    for label in LABELS:
        known = truth[f"label:{label}"].notna()
        y, s = truth.loc[known, f"label:{label}"], predicted.loc[known, f"logit:{label}"]
        entry = report["per_label"][label]
        assert entry["positives"] == y.sum()
        assert entry["negatives"] == (1 - y).sum()
        assert entry["prevalence"] == pytest.approx(y.mean())
        assert entry["auroc"]["estimate"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert entry["eligible"] == (label in ELIGIBLE)


COMPARED = {figure.key for figure in figures_of(Task.MULTILABEL) if figure.compared and not figure.needs}


def test_comparisons_have_a_row_for_every_pair_and_eligible_label(project):
    table = pd.read_csv(project / "reports" / "comparisons.csv")
    # Per split: 2 distilled students with a baseline and 2 teachers each, 2 baselines with 2 teachers each.
    pairs = table[["split", "model", "reference", "relation"]].drop_duplicates()
    assert len(pairs) == 2 * (2 * 3 + 2 * 2)
    overall = COMPARED
    assert {"macro_auroc", "macro_auprc"} <= overall
    assert set(table["metric"]) == {*overall, *(f"label:{label}" for label in ELIGIBLE)}
    assert len(table) == len(pairs) * (len(overall) + len(ELIGIBLE))
    assert (table["resamples"] == 200).all()
    labels = table[table["metric"].str.startswith("label")]
    assert (labels["p_holm"] >= labels["p"]).all()
    assert HOSTILE in {metric.removeprefix("label:") for metric in labels["metric"]}


def test_macro_figures_are_adjusted_over_all_pairs_of_a_split(project):
    table = pd.read_csv(project / "reports" / "comparisons.csv")
    for (_, metric), rows in table.groupby(["split", "metric"]):
        if metric.startswith("macro"):
            assert len(rows) == 10
            rows = rows.sort_values("p")
            times = [min(1, (10 - k) * p) for k, p in enumerate(rows["p"])]
            assert rows["p_holm"].tolist() == pytest.approx(np.maximum.accumulate(times).tolist())


def test_roc_runs_from_0_to_1_and_its_area_is_the_macro_auroc(project):
    for model in (*TEACHERS, *STUDENTS):
        curve = pd.read_csv(project / "reports" / "roc" / f"{model}.csv")
        assert list(curve.columns) == ["fpr", "tpr"]
        assert tuple(curve.iloc[0]) == (0, 0)
        assert tuple(curve.iloc[-1]) == (1, 1)
        assert (curve.diff().dropna() >= 0).all(axis=None)
        area = np.trapezoid(curve["tpr"], curve["fpr"])
        assert area == pytest.approx(metrics(project)[model]["test"]["macro_auroc"], abs=0.005)


def test_running_twice_gives_the_same_bytes(project, tmp_path):
    write_project(tmp_path)
    run(tmp_path)
    run(tmp_path)  # over its own outputs
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "reports").rglob("*") if path.is_file())
    assert len(files) == 3 + 6 + 6
    for path in files:
        assert (tmp_path / path).read_bytes() == (project / path).read_bytes(), path


def test_identical_predictions_differ_by_exactly_nothing(tmp_path):
    params = write_project(tmp_path)
    truth, predicted = (
        pd.read_parquet(tmp_path / path).set_index("image_id").sort_index()
        for path in ("data/processed/manifest.parquet", "models/students/eeea_net_c2-baseline-0/predictions.parquet")
    )
    logits = predicted.loc[truth.index, [f"logit:{label}" for label in LABELS]].to_numpy()
    write_model(tmp_path, params, "eeea_net_c2-kd-0", logits)
    run(tmp_path)
    table = pd.read_csv(tmp_path / "reports" / "comparisons.csv")
    rows = table[(table["model"] == "eeea_net_c2-kd-0") & (table["relation"] == "baseline")]
    assert len(rows) == 2 * (len(COMPARED) + len(ELIGIBLE))
    assert (rows[["estimate", "lower", "upper"]] == 0).all(axis=None)
    assert (rows["p"] == 1).all()


def test_two_baselines_are_both_compared_and_the_better_on_validation_is_quoted(tmp_path):
    fresh = {"recipes": {"fresh": {"views": "fresh"}}, "run": {"recipes": ["baseline", "fresh", "kd"]}}
    write_project(tmp_path, change=fresh)
    run(tmp_path)
    table = pd.read_csv(tmp_path / "reports" / "comparisons.csv")
    rows = table[(table["model"] == "eeea_net_c2-kd-0") & (table["relation"] == "baseline") & (table["split"] == "val")]
    assert set(rows["reference"]) == {"eeea_net_c2-baseline-0", "eeea_net_c2-fresh-0"}
    numbers = metrics(tmp_path)
    better = max(numbers[name]["val"]["macro_auroc"] for name in set(rows["reference"]))
    kd = numbers["eeea_net_c2-kd-0"]["val"]
    assert kd["difference_baseline"] == pytest.approx(kd["macro_auroc"] - better, abs=1e-12)
    assert "difference_baseline" not in numbers["eeea_net_c2-fresh-0"]["val"]


def test_tiny_data_without_an_eligible_label_end_well(tmp_path):
    write_project(tmp_path, images=12)
    run(tmp_path)
    assert metrics(tmp_path)["densenet"]["test"] == {"eligible_labels": 0}
    report = json.loads((tmp_path / "reports" / "evaluation" / "densenet.json").read_text())["test"]
    assert report["labels"] == []
    assert set(report["skipped"]) == set(LABELS)
    assert report["macro_auroc"] == {"estimate": None, "lower": None, "upper": None, "dropped": 200}
    assert (tmp_path / "reports" / "roc" / "densenet.csv").read_text() == "fpr,tpr\n"
    assert pd.read_csv(tmp_path / "reports" / "comparisons.csv").empty


def test_models_outside_the_roster_are_left_out(tmp_path):
    params = write_project(tmp_path)
    stale = tmp_path / "models" / "students" / "old-kd-3"
    stale.mkdir()
    (stale / "predictions.parquet").write_bytes(b"not read")
    run(tmp_path)
    assert set(metrics(tmp_path)) == {*params.run.teachers, *(model.name for model in params.student_models())}


def spoil_missing(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["image_id"] != "i00003"]


def spoil_unknown(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.head(1).assign(image_id="stranger")])


def spoil_repeated(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table[table["image_id"] == "i00003"]])


def spoil_split(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(split=table["split"].where(table["image_id"] != "i00003", "test"))


def spoil_label(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="logit:Mass")


def spoil_logit(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table["image_id"] == "i00003", "logit:Mass"] = np.nan
    return table


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_missing, "i00003"),
        (spoil_unknown, "stranger"),
        (spoil_repeated, "i00003"),
        (spoil_split, "i00003"),
        (spoil_label, "logit:Mass"),
        (spoil_logit, "i00003"),
    ],
)
def test_predictions_that_do_not_fit_the_manifest_are_refused_by_name(tmp_path, monkeypatch, spoil, named):
    write_project(tmp_path)
    path = tmp_path / "models" / "students" / "eeea_net_c2-kd-0" / "predictions.parquet"
    spoil(pd.read_parquet(path)).to_parquet(path, index=False)
    seal(path.with_name("config.json"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="eeea_net_c2-kd-0") as error:
        evaluate.main([])
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_missing_and_damaged_predictions_are_one_line(tmp_path, monkeypatch, content):
    write_project(tmp_path)
    path = tmp_path / "models" / "teachers" / "densenet" / "predictions.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"densenet.predictions\.parquet") as error:
        evaluate.main([])
    assert "\n" not in str(error.value)


def test_params_of_the_project_are_the_repository_defaults(project):
    """These tests assume the default roster, so a change of it shows here first."""
    assert [model.name for model in load_params(project / "params.yaml").student_models()] == STUDENTS


def test_dvc_shows_the_metrics_and_a_titled_roc_plot_of_each_model(project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True) as repo:
        found = repo.plots.show()["workspace"]
        shown = repo.metrics.show()[""]["data"]
    plots, data = found["definitions"]["data"]["dvc.yaml"]["data"], found["sources"]["data"]
    names = {f"reports/roc/{model}.csv" for model in (*TEACHERS, *STUDENTS)}
    assert set(plots) == set(data) == names
    for entry in plots.values():
        assert (entry["x"], entry["y"]) == ("fpr", "tpr")
        assert "title" not in entry  # without one DVC uses the file's name, which names the model
    assert shown[str(Path("reports/metrics.json"))]["data"] == metrics(project)


def give_studies(root: Path) -> None:
    """Put all images of a patient into one study with the same labels; every third patient has no study."""
    file = root / "data" / "processed" / "manifest.parquet"
    manifest = pd.read_parquet(file)
    in_study = manifest["group_id"].str[1:].astype(int) % 3 > 0
    manifest["study_id"] = pd.Series("1", index=manifest.index).where(in_study, None)
    columns = [f"label:{label}" for label in LABELS]
    first = manifest.groupby("group_id")[columns].transform(lambda values: values.iloc[0])
    manifest[columns] = manifest[columns].where(~in_study, first)
    manifest.to_parquet(file)
    seal(file.with_name("dataset.json"))


@pytest.mark.parametrize("how", ["max", "mean"])
def test_figures_of_studies_are_those_of_scikit_learn(tmp_path, how):
    write_project(tmp_path, change={"evaluate": {"study": how}})
    give_studies(tmp_path)
    run(tmp_path)
    for model in ("densenet", "eeea_net_c2-kd-0"):
        for split in ("val", "test"):
            truth, predicted = truth_and_logits(tmp_path, model, split)
            key = [truth["group_id"], truth["study_id"].fillna(pd.Series(truth.index, index=truth.index))]
            values = []
            for label in ELIGIBLE:
                target = truth.groupby(key)[f"label:{label}"].first()
                scores = getattr((1 / (1 + np.exp(-predicted[f"logit:{label}"]))).groupby(key), how)()
                values.append(roc_auc_score(target[target.notna()], scores[target.notna()]))
            entry = metrics(tmp_path)[model][split]
            assert entry["macro_auroc"] == pytest.approx(np.mean(values), abs=1e-9)
    evaluation = json.loads((tmp_path / "reports/evaluation/densenet.json").read_text())
    assert evaluation["study"] == how
    images = pd.read_parquet(tmp_path / "data/processed/manifest.parquet")["split"].value_counts()
    assert evaluation["test"]["images"] < images["test"]


def test_without_studies_every_figure_is_of_images_bit_for_bit(project, tmp_path):
    write_project(tmp_path, change={"evaluate": {"study": "none"}})
    run(tmp_path)
    for name in ("metrics.json", "comparisons.csv", "evaluation/densenet.json"):
        assert (tmp_path / "reports" / name).read_bytes() == (project / "reports" / name).read_bytes()
