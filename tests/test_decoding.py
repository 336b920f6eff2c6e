"""Decoding rules: pure functions of logits, checked against the processors of transformers, and the law of the draws."""

import math

import pytest
import torch

from manykin.decoding import Decoding, draw, repetition_penalty, temperature, top_k, top_p
from manykin.errors import InvalidInput

LOGITS = 2 * torch.randn(20, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("value", [0.3, 0.8, 1.0, 2.5])
def test_temperature_divides(value):
    assert torch.equal(temperature(LOGITS, value), LOGITS / value)


def test_temperature_zero_leaves_the_most_probable_symbol():
    found = temperature(LOGITS, 0)
    assert torch.equal(found.argmax(1), LOGITS.argmax(1))
    assert (torch.isfinite(found).sum(1) == 1).all()
    tied = temperature(torch.zeros(1, 4), 0.0)
    assert tied.softmax(1).tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("k", [1, 3, 12, 99])
def test_top_k_keeps_k(k):
    found = top_k(LOGITS, k)
    assert (torch.isfinite(found).sum(1) == min(k, 12)).all()
    kept = torch.isfinite(found)
    assert torch.equal(found[kept], LOGITS[kept])
    assert (LOGITS.masked_fill(~kept, math.inf).min(1).values >= LOGITS.masked_fill(kept, -math.inf).max(1).values).all()


@pytest.mark.parametrize("p", [1e-9, 0.2, 0.5, 0.9, 1.0])
def test_top_p_keeps_the_smallest_sufficient_set(p):
    kept = torch.isfinite(top_p(LOGITS, p))
    chances = LOGITS.softmax(1)
    mass = (chances * kept).sum(1)
    smallest = chances.masked_fill(~kept, 2).min(1).values
    assert (mass >= min(p, 1 - 1e-6)).all()
    if p < 1:
        assert (mass - smallest < p).all()
    assert (kept.sum(1) >= 1).all()


def test_rules_agree_with_transformers():
    from transformers.generation.logits_process import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    history = torch.randint(12, (20, 5), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(20, 12, dtype=torch.bool).scatter_(1, history, True)
    expected = LOGITS.clone()
    for step in (RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7), TopKLogitsWarper(6), TopPLogitsWarper(0.8)):
        expected = step(history, expected)
    found = Decoding(temperature=0.7, top_k=6, top_p=0.8, repetition_penalty=1.3).apply(LOGITS, seen)
    assert torch.equal(torch.isfinite(found), torch.isfinite(expected))
    kept = torch.isfinite(found)
    assert torch.allclose(found[kept], expected[kept], atol=1e-5)


def test_defaults_change_nothing():
    assert torch.equal(Decoding().apply(LOGITS), LOGITS)


def test_functions_leave_their_input_alone():
    before = LOGITS.clone()
    seen = torch.ones_like(LOGITS, dtype=torch.bool)
    Decoding(temperature=0.5, top_k=3, top_p=0.5, repetition_penalty=2.0).apply(LOGITS, seen)
    temperature(LOGITS, 0)
    draw(LOGITS)
    assert torch.equal(LOGITS, before)


def test_impossible_symbols_stay_impossible():
    logits = LOGITS.clone()
    logits[:, 3:] = -math.inf
    seen = torch.ones_like(logits, dtype=torch.bool)
    for rule in (Decoding(temperature=3.0), Decoding(top_k=6), Decoding(top_p=0.99), Decoding(repetition_penalty=1.5)):
        assert (rule.apply(logits, seen)[:, 3:] == -math.inf).all()
        assert (rule.choose(logits, seen) < 3).all()


def test_draws_follow_the_softmax():
    torch.manual_seed(0)
    logits, n = LOGITS[0], 40_000
    counts = torch.bincount(draw(logits.expand(n, -1)), minlength=12).double()
    expected = logits.double().softmax(0) * n
    # 11 degrees of freedom: the 1e-4 quantile is 37.4.
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.4


def test_repetition_penalty_lowers_the_chance_of_seen_symbols():
    seen = torch.zeros(20, 12, dtype=torch.bool)
    seen[:, :4] = True
    before, after = LOGITS.softmax(1), repetition_penalty(LOGITS, 1.5, seen).softmax(1)
    assert (after[:, :4].sum(1) < before[:, :4].sum(1)).all()


@pytest.mark.parametrize(
    "call, shown",
    [
        (lambda: temperature(LOGITS, -0.5), "temperature = -0.5"),
        (lambda: top_k(LOGITS, 0), "top_k = 0"),
        (lambda: top_p(LOGITS, 0.0), "top_p = 0.0"),
        (lambda: top_p(LOGITS, 1.5), "top_p = 1.5"),
        (lambda: repetition_penalty(LOGITS, 0.0, LOGITS > 0), "repetition_penalty = 0.0"),
        (lambda: Decoding(temperature=-1), "sampler.temperature = -1"),
        (lambda: Decoding(top_k=0), "sampler.top_k = 0"),
        (lambda: Decoding(top_p=0), "sampler.top_p = 0"),
        (lambda: Decoding(top_p=1.01), "sampler.top_p = 1.01"),
        (lambda: Decoding(repetition_penalty=0), "sampler.repetition_penalty = 0"),
        (lambda: Decoding(precision="8"), "sampler.precision = '8'"),
        (lambda: Decoding.from_json({"temprature": 1}), "Did you mean 'temperature'"),
    ],
)
def test_wrong_values_are_refused_in_one_line(call, shown):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert shown in str(caught.value)
    assert "\n" not in str(caught.value)
