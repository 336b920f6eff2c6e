import subprocess
import sys

import torch

from manykin.random import fresh_seed, generator, hash_seed, seed_all, seeded


def test_hashes_are_stable_across_processes():
    code = "from manykin.random import hash_seed; print(hash_seed(0, 'step', 1))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert int(there.stdout) == hash_seed(0, "step", 1)
    assert len({hash_seed(0, index) for index in range(1000)}) == 1000
    assert hash_seed(1, "a") != hash_seed("1", "a")


def test_seeded_restores_and_nests():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(1):
        first = torch.rand(2)
        with seeded(2):
            torch.rand(5)
        second = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(1):
        assert torch.equal(torch.rand(4), torch.cat([first, second]))


def test_generators_of_their_own():
    assert torch.equal(torch.rand(2, generator=generator(0, "x")), torch.rand(2, generator=generator(0, "x")))
    assert 0 <= fresh_seed() < 2**31
    state = torch.default_generator.get_state()
    generator(0, "x")
    assert torch.equal(state, torch.default_generator.get_state())
    seed_all(4)
    torch.default_generator.set_state(state)
