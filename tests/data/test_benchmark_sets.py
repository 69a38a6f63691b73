"""The real data sets of `benchmarks.results`: joined, divided by patient, and in strata."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import sets, study
from benchmarks.sets import NIH, SETS
from medistill.distillation.settings import Recipe
from medistill.metrics.ranking import auroc
from medistill.metrics.strata import auroc_within, ineligibility_within


@pytest.fixture(autouse=True)
def work(tmp_path_factory, monkeypatch):
    """A working folder of its own."""
    folder = tmp_path_factory.mktemp("work")
    for module in (study, sets):
        monkeypatch.setattr(module, "WORK", folder)


def test_within_their_strata_the_x_rays_do_not_ask_who_is_ill(real_data):
    nih = SETS["nih"].divided(real_data, 32, 0)
    rows = nih.manifest
    assert rows["source"].value_counts().to_dict() == {NIH[0]: 1000, NIH[1]: 345}
    assert set(rows["split"]) == {"train", "val", "test"}
    assert (rows.groupby("group_id")["split"].nunique() == 1).all()
    targets, strata = nih.targets(rows), SETS["nih"].strata(rows)
    groups = np.unique(rows["group_id"], return_inverse=True)[1]
    ill = targets[:, nih.labels.index("Pneumonia")]
    eligible = [k for k in range(14) if ineligibility_within(targets[:, k], groups, strata) is None]
    assert len(eligible) >= 10
    assert nih.labels.index("Pneumonia") not in eligible  # which is what the strata are
    of_sample = (rows["source"] == NIH[0]).to_numpy()
    for k in eligible:
        assert auroc_within(targets[:, k], ill, strata) == 0.5
        if (targets[of_sample, k] == 1).sum() > 10:
            assert auroc(targets[of_sample, k], ill[of_sample]) > 0.7


def test_kermanys_patients_are_in_one_split_and_classes_in_each(real_data):
    kermany = SETS["kermany"].divided(real_data, 32, 0)
    rows = kermany.manifest
    assert (kermany.labels, len(rows)) == (["bacteria", "none", "virus"], 3521)
    assert (rows.groupby("group_id")["split"].nunique() == 1).all()
    shares = rows["split"].value_counts(normalize=True)
    assert shares[["train", "val", "test"]].tolist() == pytest.approx([0.30, 0.15, 0.55], abs=0.01)
    prevalence = rows.assign(**{"class": kermany.targets(rows).argmax(axis=1)}).groupby("split")["class"]
    assert prevalence.value_counts(normalize=True).groupby("class").agg(np.ptp).max() < 0.02


def test_within_kermanys_part_of_covid_qu_ex_there_is_no_covid(real_data):
    covid = SETS["covid_qu_ex"].divided(real_data, 32, 0)
    rows = covid.manifest
    assert len(rows) == 1864
    assert (rows.groupby("group_id")["split"].nunique() == 1).all()
    strata, targets = SETS["covid_qu_ex"].strata(rows), covid.targets(rows)
    traced = strata >= 0
    assert traced.sum() == 58 + 172 + 114 + 13 + 6
    by_kermany = strata == strata[(rows["source"] == "kermany").to_numpy()][0]
    assert targets[by_kermany].sum(axis=0)[covid.labels.index("COVID-19")] == 0
    assert np.isnan(auroc_within(targets[:, covid.labels.index("COVID-19")], targets[:, 0], strata))


def test_a_set_that_is_not_there_is_left_out(real_data, tmp_path):
    assert all(about.here(real_data) for about in SETS.values())
    assert [name for name, about in SETS.items() if about.here(None)] == ["phantom", "phantom_96"]
    assert [name for name, about in SETS.items() if about.here(tmp_path)] == ["phantom", "phantom_96"]


def test_chexnets_answers_teach_about_519_x_rays_alone(real_data, tmp_path):
    nih = SETS["nih"].divided(real_data, 32, 0)
    setting = study.Setting("nih/0", nih, study.read_params(teach={"views": 2}))
    teacher = setting.stored("chexnet", sets.chexnet(real_data))
    spec = setting._student(study.network_of(setting.params, study.EEEA, 1, 1e-3), Recipe(), 0)
    knowledge = setting.ask(teacher, spec)
    ids = nih.split("train")["image_id"].tolist()
    said = ~np.isnan(knowledge.read("logits", ids, 1)).any(axis=1)
    answers = pd.read_csv(sets.chexnet(real_data).answers, index_col="Image Index")
    assert (
        nih.manifest["image_id"].map(lambda name: name.removesuffix(".png") + ".png").isin(answers.index).sum() == 519
    )
    assert 250 < said.sum() < 519
    assert not teacher.shuffled
