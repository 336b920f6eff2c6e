"""What the exact densities over real columns share: what they take, and how they complete and predict."""

from abc import abstractmethod

from torch import Tensor

from manykin.contract import EXACT, Density, GenerativeModel, Sampler, Support
from manykin.models.classical.conditioning import complete, draw_conditional, mean_conditional
from manykin.spaces import Labels, Value, Vector


class RealDensity(GenerativeModel):
    """A density over real columns in the user's own units, with a parameter set for each of ``groups`` classes."""

    groups: int

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,), standardise=False, bounded="keep", condition=(Labels,))

    @abstractmethod
    def _draw_unknown(self, rows: Tensor, known: Tensor, group: int) -> Tensor:
        """Draws of the unknown columns of rows (n, d) of one class that share the pattern ``known`` (d,); shape (n, unknown)."""

    @abstractmethod
    def _mean_unknown(self, rows: Tensor, known: Tensor, group: int) -> Tensor:
        """The conditional means of the unknown columns, shape (n, unknown)."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` is False drawn from the exact conditional. Unknown entries of x may be NaN."""
        return complete(self, x, known, condition, seed, self.groups, self._draw_unknown)

    def predict(self, x: Value, known: Tensor, condition: Value | None = None) -> Value:
        """x with the entries where ``known`` is False replaced by their conditional mean: the regression on the known ones."""
        return complete(self, x, known, condition, 0, self.groups, self._mean_unknown)


class NormalDensity(RealDensity):
    """A Gaussian or a mixture of Gaussians: any conditional is a mixture of Gaussians again."""

    @abstractmethod
    def _dense(self, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (k,), means (k, d) and lower Cholesky factors (k, d, d) of a class's components."""

    def _draw_unknown(self, rows: Tensor, known: Tensor, group: int) -> Tensor:
        return draw_conditional(rows, known, *self._dense(group))

    def _mean_unknown(self, rows: Tensor, known: Tensor, group: int) -> Tensor:
        return mean_conditional(rows, known, *self._dense(group))
