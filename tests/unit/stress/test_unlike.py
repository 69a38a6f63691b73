"""How unlike features are: against scikit-learn's principal components, and what is marked."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.decomposition import PCA

from medistill.stress.unlike import Unlike


def features(count, width, seed):
    """Correlated features: some directions carry more of the variance than others, and none carries nothing."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(width, width)) * 0.97 ** np.arange(width)[:, None]
    return (generator.normal(size=(count, width)) @ mixing + 5).astype(np.float32)


TRAINING, VALIDATION = features(300, 90, 0), features(120, 90, 1)
GROUPS = np.arange(120) // 2


def test_scores_are_those_of_principal_components():
    unlike = Unlike.fit(TRAINING, VALIDATION, GROUPS)
    pca = PCA(n_components=64, svd_solver="full").fit(TRAINING.astype(np.float64))

    def parts(values):
        along = pca.transform(values)
        rest = ((values - pca.inverse_transform(along)) ** 2).sum(axis=1)
        return (along**2 / pca.explained_variance_).sum(axis=1), rest

    inside, outside = parts(VALIDATION)
    new = features(50, 90, 2)
    expected = (parts(new)[0] / inside.mean() + parts(new)[1] / outside.mean()) / 2
    np.testing.assert_allclose(unlike.scores(new), expected, rtol=2e-3)
    assert unlike.scores(VALIDATION).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("patients", "above"), [(60, 0), (99, 0), (200, 1), (400, 3)])
def test_one_percent_of_new_patients_may_be_marked_and_a_patient_counts_once(patients, above):
    groups = np.repeat(np.arange(patients), 3)
    validation = features(3 * patients, 20, 3)
    unlike = Unlike.fit(features(100, 20, 0), validation, groups)
    marked = np.unique(groups[unlike.marks(validation)])
    assert len(marked) == above  # (above + 1) / (patients + 1) ≤ 0.01, or none
    if above:
        assert (above + 1) / (patients + 1) <= 0.01 < (above + 2) / (patients + 1)


@pytest.mark.parametrize(("images", "width"), [(300, 10), (20, 90), (3, 90)])
def test_few_features_and_few_images_have_fewer_components(images, width):
    training, validation = features(images, width, 4), features(40, width, 5)
    unlike = Unlike.fit(training, validation, np.arange(40))
    assert len(unlike.components) == min(width, images - 1)
    assert np.isfinite(unlike.scores(validation)).all()
    assert unlike.scores(validation).mean() == pytest.approx(1, rel=1e-4)
    assert unlike.marks(validation + 100).all()


def test_what_lies_outside_of_all_components_is_marked():
    plane = np.zeros((300, 80), np.float32)
    plane[:, :10] = features(300, 10, 6)
    unlike = Unlike.fit(plane[:200], plane[200:], np.arange(100))
    inside = plane[:5].copy()
    assert not unlike.marks(inside).any()
    outside = inside + np.eye(80, dtype=np.float32)[70]  # where neither training nor validation images ever were
    assert not unlike.scales[-1]  # so nothing is known of how much is usual there
    noisy = plane + np.random.default_rng(0).normal(0, 0.01, plane.shape).astype(np.float32)
    assert Unlike.fit(noisy[:200], noisy[200:], np.arange(100)).marks(outside).all()


def test_features_that_are_all_the_same_mark_nothing():
    same = np.ones((30, 8), np.float32)
    unlike = Unlike.fit(same, same[:10], np.arange(10))
    assert unlike.scores(same).tolist() == [0] * 30
    assert not unlike.marks(same).any()


def test_the_file_scores_as_the_page_says(tmp_path):
    unlike = Unlike.fit(TRAINING, VALIDATION, GROUPS)
    unlike.write(tmp_path / "a.safetensors", {"model": "a"})
    file = load_file(tmp_path / "a.safetensors")
    centred = VALIDATION - file["mean"]
    along = centred @ file["components"].T
    rest = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
    scores = (file["scales"][:-1] * along**2).sum(axis=1) + file["scales"][-1] * rest
    np.testing.assert_allclose(scores, unlike.scores(VALIDATION), rtol=1e-3)
    assert file["threshold"].tolist() == [pytest.approx(unlike.threshold)]
    assert (tmp_path / "a.safetensors").stat().st_size < 60_000
