"""How unlike features are: against scikit-learn's shrunk covariance and one written out, and what is marked."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.covariance import LedoitWolf

from medistill.stress.unlike import Unlike


def features(count, width, seed):
    """Correlated features: some directions carry more of the variance than others, and none carries nothing."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(width, width)) * 0.97 ** np.arange(width)[:, None]
    return (generator.normal(size=(count, width)) @ mixing + 5).astype(np.float32)


TRAINING, VALIDATION = features(300, 90, 0), features(120, 90, 1)
GROUPS = np.arange(120) // 2


@pytest.mark.parametrize("images", [40, 70, 500])
def test_of_few_features_it_is_the_distance_of_scikit_learns_shrunk_covariance(images):
    training, validation, new = features(images, 30, 0), features(60, 30, 1), features(50, 30, 2)
    fitted = LedoitWolf().fit(training.astype(np.float64))
    patients = np.arange(60) // 2
    expected = fitted.mahalanobis(new) / fitted.mahalanobis(validation).max()  # of 30 patients the largest
    np.testing.assert_allclose(Unlike.fit(training, training, validation, patients).scores(new), expected, rtol=1e-3)


def test_of_many_features_all_but_64_components_have_their_mean_variance():
    shrunk = LedoitWolf().fit(TRAINING.astype(np.float64)).covariance_
    variances, directions = np.linalg.eigh(shrunk)
    variances[:-64] = variances[:-64].mean()
    inverse = np.linalg.inv(directions * variances @ directions.T)
    centre = TRAINING.mean(axis=0, dtype=np.float64)

    def distances(values):
        return np.array([(value - centre) @ inverse @ (value - centre) for value in values.astype(np.float64)])

    new = features(50, 90, 2)
    expected = distances(new) / distances(VALIDATION).max()
    np.testing.assert_allclose(Unlike.fit(TRAINING, TRAINING, VALIDATION, GROUPS).scores(new), expected, rtol=1e-3)


def test_mirrored_images_are_told_by_the_discriminant_of_scikit_learns_shrunk_covariance():
    training, validation, new = features(200, 30, 0), features(60, 30, 1), features(50, 30, 2)
    mirrored = training + np.linspace(-0.5, 0.5, 30, dtype=np.float32)
    fitted = LedoitWolf().fit(training.astype(np.float64))
    direction = fitted.precision_ @ np.linspace(-0.5, 0.5, 30)

    def parts(values):
        return fitted.mahalanobis(values), (values - fitted.location_) @ direction

    distance, side = parts(validation)
    expected = np.maximum(parts(new)[0] / distance.max(), parts(new)[1] / side.max())
    unlike = Unlike.fit(training, mirrored, validation, np.arange(60) // 2)
    np.testing.assert_allclose(unlike.scores(new), expected, rtol=1e-3)
    assert (parts(new)[1] / side.max() > parts(new)[0] / distance.max()).any()  # both decide
    turned = new + np.linspace(-1.5, 1.5, 30, dtype=np.float32)
    assert unlike.marks(turned).mean() > Unlike.fit(training, training, validation, np.arange(60)).marks(turned).mean()


@pytest.mark.parametrize(("patients", "above"), [(60, 0), (99, 0), (200, 1), (400, 3)])
def test_one_percent_of_new_patients_may_be_marked_and_a_patient_counts_once(patients, above):
    groups = np.repeat(np.arange(patients), 3)
    validation = features(3 * patients, 20, 3)
    unlike = Unlike.fit(features(100, 20, 0), features(100, 20, 7), validation, groups)
    marked = np.unique(groups[unlike.marks(validation)])
    assert len(marked) == above  # (above + 1) / (patients + 1) ≤ 0.01, or none
    largest = np.sort(unlike.scores(validation).reshape(patients, 3).max(axis=1))
    assert largest[patients - above - 1] == pytest.approx(1, abs=1e-5)  # the patient who sets the threshold
    if above:
        assert (above + 1) / (patients + 1) <= 0.01 < (above + 2) / (patients + 1)


@pytest.mark.parametrize(("images", "width"), [(300, 10), (20, 90), (3, 90), (1, 90)])
def test_few_features_and_few_images_have_fewer_components(images, width):
    training, validation = features(images, width, 4), features(40, width, 5)
    unlike = Unlike.fit(training, training, validation, np.arange(40))
    assert len(unlike.components) == min(width, images)
    assert np.isfinite(unlike.scores(validation)).all()
    assert not unlike.marks(validation).any()
    assert unlike.marks(validation + 100).all()


def test_short_features_are_marked_where_usual_ones_are_long():
    """An image in which a network finds nothing has features near 0: far from the mean, though nothing is large."""
    usual = np.abs(features(420, 80, 6)) + 5
    unlike = Unlike.fit(usual[:300], usual[:300], usual[300:], np.arange(120))
    assert unlike.marks(0.3 * usual[:20]).all()


def test_what_lies_outside_of_all_components_is_marked():
    plane = np.zeros((300, 80), np.float32)
    plane[:, :10] = features(300, 10, 6)
    noisy = plane + np.random.default_rng(0).normal(0, 0.01, plane.shape).astype(np.float32)
    outside = plane[:5] + np.eye(80, dtype=np.float32)[70]  # where neither training nor validation images ever were
    for usual in (plane, noisy):
        unlike = Unlike.fit(usual[:200], usual[:200], usual[200:], np.arange(100))
        assert not unlike.marks(usual[200:]).any()
        assert unlike.marks(outside).all()


def test_features_that_are_all_the_same_mark_only_others():
    for value in (0.0, 0.1, 1.0):
        same = np.full((30, 8), value, np.float32)
        unlike = Unlike.fit(same, same, same[:10], np.arange(10))
        assert not unlike.marks(same).any()
        assert unlike.marks(same + 0.1).all()


def test_the_file_scores_as_the_page_says(tmp_path):
    unlike = Unlike.fit(TRAINING, TRAINING[:, ::-1], VALIDATION, GROUPS)
    unlike.write(tmp_path / "a.safetensors", {"model": "a"})
    file = load_file(tmp_path / "a.safetensors")
    centred = VALIDATION - file["mean"]
    along = centred @ file["components"].T
    rest = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
    scores = np.maximum(
        (file["scales"][:-1] * along**2).sum(axis=1) + file["scales"][-1] * rest, centred @ file["side"]
    )
    np.testing.assert_allclose(scores, unlike.scores(VALIDATION), rtol=1e-3)
    assert (Unlike.read(tmp_path / "a.safetensors").scores(VALIDATION) == unlike.scores(VALIDATION)).all()
    assert (tmp_path / "a.safetensors").stat().st_size < 60_000
