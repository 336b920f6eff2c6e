"""A model written outside the package, in about thirty lines, keeps every promise of the contract."""

import math

import torch
from torch import nn

import manykin as mk
from manykin.contract import EXACT, Support
from manykin.spaces import Vector


class Laplace(mk.GenerativeModel):
    """Independent Laplace distributions, fitted by gradient."""

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        size = self.model_space.shape[0]
        self.centre = nn.Parameter(torch.zeros(size))
        self.log_width = nn.Parameter(torch.zeros(size))

    @property
    def kind(self):
        return EXACT

    @property
    def accepts(self):
        return Support((Vector,))

    def _log_prob(self, z, condition):
        distance = (z - self.centre).abs() / self.log_width.exp()
        return -(distance + self.log_width + math.log(2)).sum(dim=1)

    def _sample(self, n, condition, sampler):
        u = torch.rand(n, len(self.centre), dtype=self.dtype) - 0.5
        return self.centre - self.log_width.exp() * u.sign() * torch.log1p(-2 * u.abs())


class HalfLaplace(Laplace):
    def _log_prob(self, z, condition):
        return super()._log_prob(z, condition) + math.log(2)


def test_external_model_conforms():
    for space in (mk.Vector(2), mk.Vector(5), mk.Vector(2, levels=6), mk.Image((1, 3, 3), levels=17)):
        report = mk.check(Laplace(None, space))
        assert report.passed, str(report)


def test_mistake_in_external_model_is_found():
    report = mk.check(HalfLaplace(None, mk.Vector(2)))
    assert "mass-is-one" in [row.name for row in report.failures]
