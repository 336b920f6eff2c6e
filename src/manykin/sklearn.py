"""The scikit-learn face: any model with a density as an estimator."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.distributions import Categorical

from manykin.contract import Encodes
from manykin.errors import NoDensity
from manykin.fitted import Fitted
from manykin.spaces import Vector


def _encodes(estimator: "DensityEstimator") -> bool:
    """Whether the fitted model has components to predict."""
    return hasattr(estimator, "fitted_") and isinstance(estimator.fitted_.model, Encodes) and "weights_" in vars(estimator)


def _when_mixture() -> Callable[[Any], Any]:
    return available_if(_encodes)  # type: ignore[no-any-return]


class DensityEstimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Density estimation under scikit-learn's names: ``fit``, ``score_samples``, ``score``, ``sample``.

    Every column is taken as continuous, as scikit-learn does; :func:`manykin.fit` also knows grids, categories and missing values.

    Args:
        model: a name from ``manykin models`` that has a density.
        options: the model's own options that differ from its default preset.
        max_steps: a limit on training steps.
        random_state: seed or ``RandomState``.

    Attributes:
        fitted_: the :class:`manykin.Fitted` behind the estimator.
        n_features_in_: the number of columns.
        means_, covariances_, weights_, ...: fitted parameters by scikit-learn's names, where the model has them.
    """

    def __init__(
        self, model: str = "gaussian-mixture", *, options: Mapping[str, Any] | None = None, max_steps: int | None = None, random_state: Any = None
    ) -> None:
        self.model = model
        self.options = options
        self.max_steps = max_steps
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the model to X, shape (n, d); y is ignored.

        Raises:
            NoDensity: for a model that can only sample.
        """
        from manykin.api import fit

        values = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fitted = fit(
            self.model, np.ascontiguousarray(values), options=self.options, max_steps=self.max_steps, seed=seed, data_options={"step": False}
        )
        if fitted.density is None:
            raise NoDensity(f"{self.model} has no density; expected a model with one, see `manykin models`.")
        fitted.data = None
        self.fitted_: Fitted = fitted
        assert isinstance(fitted.space, Vector)
        self.n_iter_ = int(fitted.result["steps"])
        if hasattr(fitted.model, "parameters_table"):
            for name, value in fitted.parameters_table().items():
                setattr(self, f"{name}_", value)
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log density of each row in nats, shape (n,)."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.asarray(self.fitted_.log_prob(np.ascontiguousarray(values)), dtype=np.float64)

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log density of the rows in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> NDArray[np.floating[Any]]:
        """Draw rows, shape (n_samples, d). Unlike scikit-learn's mixtures, X alone comes back."""
        check_is_fitted(self)
        state = check_random_state(self.random_state if random_state is None else random_state)
        return np.asarray(self.fitted_.sample(int(n_samples), seed=int(state.randint(2**31 - 1))))

    @_when_mixture()
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Responsibilities of a mixture's components, shape (n, k)."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        posterior = self.fitted_.encode(np.ascontiguousarray(values))
        assert isinstance(posterior, Categorical)
        return np.asarray(posterior.probs.detach().numpy(), dtype=np.float64)

    @_when_mixture()
    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The most probable component of each row, shape (n,)."""
        return np.asarray(self.predict_proba(X).argmax(axis=1), dtype=np.int64)
