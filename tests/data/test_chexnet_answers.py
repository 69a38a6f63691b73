"""The stored answers of a real CheXNet replica teach about real images of ChestX-ray14."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.settings import TableTeacher, Teach
from medistill.distillation.table import import_table, read_answers
from medistill.distillation.train import teach
from medistill.nih import LABELS
from medistill.records.models import ModelRecord

AUGMENTATION = Augmentation(rotation=0, translation=0, scale=0, brightness=0, contrast=0, flip=False)


@pytest.fixture(scope="module")
def extra(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nih_extra")
    options = {"split": "patient", "val_fraction": 0.15, "test_fraction": 0.3, "image_size": 32, "channels": 1}
    settings = Data(format="chestxray14", root=real_data / "nih_extra_256", max_quarantined=0, workers=2, **options)
    ingest(settings, folder / "processed", folder / "cache")
    return Dataset.open(folder / "processed")


def chexnet(real_data, name="chexnet_predictions.csv"):
    labels = {label: f"prob_{label}" for label in LABELS}
    return TableTeacher(answers=real_data / "nih_extra_256" / name, id="Image Index", labels=labels)


def test_its_answers_are_about_300_images_and_as_good_as_they_are_said_to_be(extra, real_data):
    answers = read_answers(chexnet(real_data), extra)
    assert answers.shape == (300, 14)
    manifest = extra.manifest.set_index("image_id").loc[answers.index]
    truth = manifest[[f"label:{label}" for label in answers]].to_numpy()
    both = [k for k in range(14) if 0 < truth[:, k].sum() < 300]
    mean = np.mean([roc_auc_score(truth[:, k], answers.iloc[:, k]) for k in both])
    assert mean == pytest.approx(0.79, abs=0.01)  # the data's README


def test_it_teaches_these_alone_and_has_no_figures_without_the_others(extra, real_data, tmp_path):
    import_table(tmp_path / "m", "chexnet", chexnet(real_data), extra)
    assert not ModelRecord.read_whole(tmp_path / "m" / "config.json").measured
    asked = Teach(views=4)
    teach(tmp_path / "k", tmp_path / "m", extra, AUGMENTATION, asked, unfinished=tmp_path / "u")
    knowledge = Knowledge.open(tmp_path / "k", extra, AUGMENTATION, asked)
    answers = read_answers(chexnet(real_data), extra)
    ids = extra.split("train")["image_id"].tolist()
    found, known = knowledge.read("logits", ids, 3), np.isin(ids, answers.index)
    assert 0 < known.sum() < len(ids)
    assert np.isnan(found[~known]).all()
    expected = expit(answers.loc[np.array(ids)[known], extra.labels].to_numpy())
    np.testing.assert_allclose(expit(found[known]), expected, atol=1e-3)


def test_the_packed_table_of_its_test_fold_has_219_of_the_thousand(by_patient, real_data):
    answers = read_answers(chexnet(real_data, "chexnet_test_predictions.csv.gz"), by_patient)
    assert len(answers) == 219
