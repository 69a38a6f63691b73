"""`benchmarks.results` from the first training to the figures, with tiny networks."""

import numpy as np
import pytest

from benchmarks import hours, outcomes, plans, results, scores, sets, study
from benchmarks.plans import Job, Plan, Row, locate, phases
from benchmarks.results import to_train, train_all
from benchmarks.sets import ImageSet
from benchmarks.study import EEEA, LITE2, read_params
from medistill.data.dataset import Dataset
from medistill.distillation.settings import Recipe
from medistill.metrics.strata import auroc_within
from tests.conftest import write_dataset

TERMS = [{"loss": "binary_cross_entropy", "weight": 0.1}, {"loss": "sigmoid_kd", "weight": 0.9, "temperature": 4.0}]
FEATURES = [{"loss": "feature_mse"}]
ROWS = {
    "baseline": Row(),
    "faster": Row(rate=2.0, training={"ema": 0.5}),
    "system_b": Row(Recipe(teachers=[LITE2], terms=TERMS)),
    "calibrated": Row(Recipe(teachers=[LITE2], terms=TERMS, calibrate=True)),
    "two_stage": Row(Recipe(teachers=[LITE2], stages=[{"terms": FEATURES, "epochs": 1}, {"terms": TERMS}])),
    "shuffled": Row(Recipe(teachers=[LITE2], terms=TERMS), control="shuffled"),
    "self": Row(Recipe(teachers=[EEEA], terms=TERMS), control="self"),
}
ORDER = [("tiny", [EEEA], tuple(ROWS))]
CACHED = (plans.open_fold, plans.setting_of, scores.kept_of, scores.truth_of)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """400 images of 32 px of 200 patients: enough of each label on validation to calibrate by."""
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("tiny") / "processed", images=400))


@pytest.fixture
def tiny(dataset, tmp_path, monkeypatch):
    """A plan of two seeds and the data set of the tests, in a working folder of its own."""

    def read_tiny(**changed):
        params = read_params(**changed)
        small = {"arch": "test_resnet", "pretrained": False, "args": {}}
        teachers, students = (
            {name: network.model_copy(update=small) for name, network in networks.items()}
            for networks in (params.teachers, params.students)
        )
        return params.model_copy(update={"teachers": teachers, "students": students})

    plan = Plan("tiny", 32, {LITE2: 1, EEEA: 2}, {LITE2: 1e-3, EEEA: 1e-3}, 1, {EEEA: ROWS}, seeds=(0, 1))
    about = ImageSet("tiny", (), lambda root, size: dataset, strata=lambda rows: np.arange(len(rows)) % 2)
    monkeypatch.setitem(plans.PLANS, "tiny", plan)
    monkeypatch.setitem(plans.RECIPES, ("tiny", EEEA), tuple(ROWS))
    monkeypatch.setitem(sets.SETS, "tiny", about)
    monkeypatch.setattr(plans, "read_params", read_tiny)
    for module in (study, results):
        monkeypatch.setattr(module, "WORK", tmp_path / "work")
    for module in (outcomes, scores):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "outcomes")
    monkeypatch.setattr(hours.Pace, "of", lambda root: hours.Pace(root, {}))
    for cached in CACHED:
        cached.cache_clear()
    yield plan
    for cached in CACHED:
        cached.cache_clear()


def test_a_run_trains_each_row_once_keeps_its_outcome_and_forgets_the_student(tiny, dataset, tmp_path, capsys):
    train_all(ORDER, None, 1)
    assert "| all |  | 16 |" in capsys.readouterr().out  # two seeds of a teacher and of seven rows
    assert to_train(ORDER, None) == []
    models = sorted(folder.name.rsplit("-", 2)[0] for folder in (tmp_path / "work" / "models").glob("*/*/[!.]*"))
    assert models == [f"{EEEA}-baseline"] * 2 + [LITE2] * 2  # those that teach
    assert not list((tmp_path / "work" / "checkpoints").glob("*/*/*/*"))

    found = scores.results_of("tiny", None)
    assert list(found.students[EEEA]) == list(ROWS)
    own = {name: row.logits for name, row in found.students[EEEA].items()}
    assert all(not np.array_equal(own[name], own["system_b"]) for name in ROWS if name != "system_b")

    rows = dataset.split("test")
    targets, strata = dataset.targets(rows), np.arange(len(rows)) % 2
    for seed in range(2):
        here = [auroc_within(targets[:, k], own["self"][seed][:, k], strata) for k in found.truth.columns_within]
        assert found.students[EEEA]["self"].within[seed, 0] == pytest.approx(np.mean(here))

    # a teacher that is gone is trained again where a student asks for it, and nothing else is
    (tmp_path / "outcomes" / "tiny" / f"{EEEA}-self.parquet").unlink()
    scores.kept_of.cache_clear()
    assert to_train(ORDER, None) == [[Job("tiny", 0, EEEA, "self", seed)] for seed in (0, 1)]
    for folder in (tmp_path / "work" / "models").glob(f"*/*/{EEEA}-baseline-0-*"):
        folder.rename(tmp_path / "gone")
    asked = [[Job("tiny", 0, EEEA, name, 0)] for name in ("baseline", "self")]
    assert to_train(ORDER, None) == [*asked, [Job("tiny", 0, EEEA, "self", 1)]]


def test_settings_tell_rows_apart_but_not_the_code(tiny, monkeypatch):
    jobs = [job for phase in phases(ORDER) for job in phase]
    every = [locate(job, None) for job in jobs]
    assert len({model.settings for model in every}) == len({model.key for model in every}) == len(jobs)
    monkeypatch.setattr("medistill.training.spec.torch.__version__", "another")
    again = [locate(job, None) for job in jobs]
    assert [model.settings for model in again] == [model.settings for model in every]
    assert not {model.key for model in again} & {model.key for model in every}
