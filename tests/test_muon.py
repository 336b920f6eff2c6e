import pytest
import torch
from torch import nn

import manykin as mk
from manykin.training.muon import Muon, orthogonalise
from manykin.training.optim import _matrices


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 40), (1, 4, 100)])
def test_singular_values_are_near_one_and_the_vectors_stay(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    found = orthogonalise(x)
    kept = torch.diagonal(u.mT @ found @ v.mT, dim1=1, dim2=2)
    clear = s > 0.05 * s[:, :1]
    assert ((kept[clear] > 0.5) & (kept[clear] < 1.3)).all()
    assert (u @ torch.diag_embed(kept) @ v - found).abs().max() < 1e-3


def test_every_step_is_that_of_the_reference():
    """torch.optim.Muon works through the matrices one by one: batching them, transposed ones too, changes nothing but rounding."""
    shapes = [(12, 20), (20, 12), (12, 20), (7, 7), (7, 7), (2, 9)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    a, b = Muon(ours, 0.02, 0.1), torch.optim.Muon(theirs, 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    assert all((p - q).abs().max() < 5e-3 for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_of_convolutions_are_matrices_of_outputs_by_the_rest(layout):
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=layout))
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn(6, 4, 3, 3).to(memory_format=layout)
    flat.grad = kernel.grad.flatten(1).clone()
    for parameter in (kernel, flat):
        Muon([parameter], 0.1).step()
    assert torch.equal(kernel.flatten(1), flat)
    assert kernel.is_contiguous(memory_format=layout)


def test_embeddings_and_vectors_are_left_to_adamw():
    model = nn.ModuleDict({
        "table": nn.Embedding(9, 4), "linear": nn.Linear(4, 5), "row": nn.Linear(4, 1), "conv": nn.Conv2d(3, 5, 3), "depth": nn.Conv1d(1, 1, 5),
    })  # fmt: skip
    chosen = _matrices(model)
    assert {name for name, p in model.named_parameters() if id(p) in chosen} == {"linear.weight", "conv.weight"}


def test_a_run_with_muon_resumes_to_the_same_bits(tmp_path):
    common = {"preset": "tiny", "seed": 3, "train": {"optimizer": "muon", "save_every": 10}}
    whole = mk.fit("realnvp", "two-moons", max_steps=30, **common)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "run", common)
    again = mk.fit("realnvp", "two-moons", max_steps=30, out=tmp_path / "run", resume=True, **common)
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def _interrupted(folder, common):
    from manykin.models.flows.realnvp import RealNVP

    calls, plain = [], RealNVP.loss

    def stops(self, batch):
        calls.append(1)
        if len(calls) > 17:
            raise KeyboardInterrupt
        return plain(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RealNVP, "loss", stops)
        mk.fit("realnvp", "two-moons", max_steps=30, out=folder, **common)
