import threading

import numpy as np
import pytest
import torch
from torch import nn

from manykin.config import Config
from manykin.contract import ESTIMATE, EXACT, LOWER_BOUND, UNNORMALISED, Batch, Density, GenerativeModel, Sampler, Support
from manykin.errors import InvalidInput, ManykinError, NoDensity, Unsupported
from manykin.spaces import Image, Labels, Vector, count


class Normal(GenerativeModel):
    """A standard normal with a learned shift for each class."""

    family = "test"

    def __init__(self, config=None, space=None, condition=None):
        super().__init__(config, space or Vector(2), condition)
        classes = condition.classes if condition is not None else 1
        self.shift = nn.Parameter(torch.arange(classes, dtype=torch.float32)[:, None].repeat(1, self.model_space.shape[0]) * 10)

    @property
    def kind(self):
        return EXACT

    @property
    def accepts(self):
        return Support((Vector,), condition=(Labels,))

    def _mean(self, condition, n):
        return self.shift[condition] if condition is not None else self.shift[0].expand(n, -1)

    def _log_prob(self, z, condition):
        return torch.distributions.Normal(self._mean(condition, len(z)), 1.0).log_prob(z).sum(1)

    def _sample(self, n, condition, sampler):
        assert not self.training
        mean = self._mean(condition, n)
        return mean + torch.randn_like(mean)


class Implicit(Normal):
    @property
    def kind(self):
        return None


def test_strengths_and_composition():
    assert [str(d) for d in (EXACT, LOWER_BOUND, ESTIMATE, UNNORMALISED)] == ["exact", "bound", "estimate", "unnormalised"]
    assert EXACT.dequantised() == LOWER_BOUND
    assert Density(bias="upper").dequantised().strength == "estimate"
    assert UNNORMALISED.dequantised().strength == "unnormalised"


def test_density_is_weakened_by_dequantisation():
    assert Normal().density == EXACT
    assert Normal(space=Vector(2, levels=4)).density == LOWER_BOUND
    assert Implicit(space=Vector(2, levels=4)).density is None


def test_log_prob_is_in_data_space_by_construction():
    model = Normal()
    data = torch.randn(500, 2) * 3 + 1
    model.start(lambda: [Batch(data)], Batch(data), 0)
    exact = torch.distributions.Normal(data.double().mean(0), data.double().std(0, unbiased=False)).log_prob(data.double()).sum(1)
    torch.testing.assert_close(model.log_prob(data), exact, rtol=1e-5, atol=1e-5)


def test_log_prob_is_differentiable_and_restores_modes():
    model = Normal().train()
    x = torch.randn(3, 2, requires_grad=True)
    model.log_prob(x).sum().backward()
    torch.testing.assert_close(x.grad, -x.detach())
    assert model.training
    assert model.transform.training


def test_samples_do_not_depend_on_how_many_are_drawn():
    model = Normal()
    few, many = model.sample(3, seed=1), model.sample(700, seed=1)
    assert torch.equal(few, many[:3])
    assert len(many) == 700
    assert not torch.equal(few, model.sample(3, seed=2))


def test_global_generators_are_untouched():
    model = Normal(space=Vector(2, levels=4))
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    model.sample(10, seed=0)
    model.log_prob(torch.ones(3, 2))
    assert torch.equal(torch.rand(1), before)


def test_threads_get_the_samples_of_their_seeds():
    model = Normal()
    alone = [model.sample(300, seed=seed) for seed in range(4)]
    found = [None] * 4

    def work(seed):
        for _ in range(20):
            found[seed] = model.sample(300, seed=seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


def test_conditions_both_ways():
    model = Normal(condition=Labels(3))
    x = torch.zeros(4, 2)
    assert model.log_prob(x, torch.tensor([0, 0, 1, 2])).shape == (4,)
    assert model.log_prob(x, torch.tensor([1]))[0] < model.log_prob(x, torch.tensor([0]))[0]
    for call, message in [
        (lambda: model.log_prob(x), "condition is missing"),
        (lambda: model.log_prob(x, torch.tensor([0, 1])), "2 conditions were given for 4"),
        (lambda: model.log_prob(x, torch.tensor([3])), "3 in row 0"),
        (lambda: Normal().log_prob(x, torch.tensor([0])), "without one"),
        (lambda: Normal().sample(2, torch.tensor([0])), "without one"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            call()
    assert (model.sample(50, torch.tensor([2]), seed=0) > 10).all()


def test_conditions_are_drawn_from_training_frequencies():
    model = Normal(condition=Labels(2))
    data = Batch(torch.randn(100, 2), torch.tensor([0] * 90 + [1] * 10))
    model.start(lambda: [data], data, 0)
    assert model.condition_frequencies.tolist() == [0.9, 0.1]
    x = model.sample(2000, seed=0)
    share = (x[:, 0] > 5).double().mean()
    assert abs(share - 0.1) < 4 * (0.09 / 2000) ** 0.5
    grid = model.marginal_log_prob(torch.zeros(1, 2))
    assert grid < model.log_prob(torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize(("n", "text"), [(0, "n = 0"), (-3, "n = -3"), (2.0, "n = 2.0"), (True, "n = True")])
def test_impossible_counts(n, text):
    with pytest.raises(InvalidInput, match=text):
        Normal().sample(n)


def test_foreign_sampler_and_config_are_refused():
    with pytest.raises(InvalidInput, match="none: leave it out"):
        Normal().sample(1, sampler=Sampler())

    class Other(Config):
        pass

    class Strict(Normal):
        config_class = Sampler

    with pytest.raises(InvalidInput, match="was given a Other"):
        Strict(Other())


def test_implicit_models_have_no_density():
    with pytest.raises(NoDensity, match="can only sample"):
        Implicit().log_prob(torch.zeros(1, 2))


def test_final_methods_cannot_be_overridden():
    with pytest.raises(TypeError, match="define the hook _sample"):

        class Wrong(Normal):
            def sample(self, n):
                return n


def test_unsupported_condition_and_space():
    with pytest.raises(Unsupported, match="cannot be conditioned on Image"):
        Normal(condition=Image((1, 2, 2)))
    with pytest.raises(Unsupported, match="does not fit"):
        Normal(space=Labels(3))


def test_broken_samplers_are_caught():
    class Diverged(Normal):
        def _sample(self, n, condition, sampler):
            return torch.full((n, 2), float("nan"))

    with pytest.raises(ManykinError, match="NaN"):
        Diverged().sample(3)


def test_value_of_infinite_support_counts_rows():
    assert count(Normal().sample(1, seed=0)) == 1
