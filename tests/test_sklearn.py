import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from manykin.errors import InvalidInput, NoDensity
from manykin.sklearn import DensityEstimator

IRIS = load_iris().data


@parametrize_with_checks([DensityEstimator(options={"n_components": 1, "n_init": 1}), DensityEstimator("gaussian"), DensityEstimator("kde")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_agrees_with_scikit_learns_mixture_of_one():
    ours = DensityEstimator(options={"n_components": 1}, random_state=0).fit(IRIS)
    theirs = GaussianMixture(1, reg_covar=1e-6).fit(IRIS)
    np.testing.assert_allclose(ours.score_samples(IRIS), theirs.score_samples(IRIS), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-6)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-5)
    assert ours.score(IRIS) == pytest.approx(theirs.score(IRIS), rel=1e-6)


def test_components_predict():
    ours = DensityEstimator(options={"n_components": 3}, random_state=0).fit(IRIS)
    probabilities = ours.predict_proba(IRIS)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert set(ours.predict(IRIS)) == {0, 1, 2}
    assert not hasattr(DensityEstimator("gaussian", random_state=0).fit(IRIS), "predict")


def test_sampling_is_seeded_and_shaped():
    ours = DensityEstimator("gaussian", random_state=0).fit(IRIS)
    assert ours.sample(7).shape == (7, 4)
    np.testing.assert_array_equal(ours.sample(5, random_state=1), ours.sample(5, random_state=1))


def test_grid_search_and_clone():
    search = GridSearchCV(DensityEstimator(random_state=0), {"options": [{"n_components": k} for k in (1, 3)]}, cv=3).fit(IRIS)
    assert clone(search.best_estimator_).get_params()["options"] == search.best_params_["options"]


def test_models_without_density_and_unknown_models():
    with pytest.raises(NoDensity, match="gan has no density"):
        DensityEstimator("gan", max_steps=2, random_state=0).fit(IRIS)
    with pytest.raises(InvalidInput, match="Did you mean 'gaussian'"):
        DensityEstimator("gausian").fit(IRIS)
