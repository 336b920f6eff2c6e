"""The objectives of the two players, and the penalties that keep the discriminator smooth."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Objective = Literal["non-saturating", "hinge", "wasserstein"]


def discriminator_terms(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises for each pair of scores (n,) of a real and a generated example, shape (n,).

    ``non-saturating``: softplus(-D(x)) + softplus(D(G(h))), the cross-entropy of log-odds (Goodfellow et al., Generative adversarial nets, 2014,
    algorithm 1). ``hinge``: max(0, 1 - D(x)) + max(0, 1 + D(G(h))) (Lim and Ye, Geometric GAN, 2017; Miyato et al., 2018, equation 16).
    ``wasserstein``: D(G(h)) - D(x) (Arjovsky, Chintala and Bottou, Wasserstein GAN, 2017, equation 2).
    """
    if objective == "hinge":
        return functional.relu(1 - real) + functional.relu(1 + fake)
    if objective == "wasserstein":
        return fake - real
    return functional.softplus(-real) + functional.softplus(fake)


def generator_terms(objective: Objective, fake: Tensor) -> Tensor:
    """What the generator minimises for each score (n,) of its examples: softplus(-D) where scores are log-odds, else -D."""
    return functional.softplus(-fake) if objective == "non-saturating" else -fake


def slopes(scores: Tensor, points: Tensor) -> Tensor:
    """The gradient of each score (n,) at its own point, flattened to (n, d), itself differentiable: right where no score looks at other points."""
    (slope,) = torch.autograd.grad(scores, points, torch.ones_like(scores), create_graph=True)
    return slope.flatten(1).float() if slope.dtype in (torch.bfloat16, torch.float16) else slope.flatten(1)


def zero_centred(scores: Tensor, points: Tensor) -> Tensor:
    """|grad D|^2 at each point, shape (n,): R1 at real data (Mescheder, Geiger and Nowozin, Which training methods for GANs do actually converge?,
    2018, equation 9)."""  # fmt: skip
    return slopes(scores, points).square().sum(dim=1)


def one_centred(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """(|grad D| - 1)^2 at a random place on the line between each real example and a generated one, shape (n,).

    Two-sided, a norm and a place for each example (Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, Improved training of Wasserstein GANs, 2017,
    equation 3 and algorithm 1). Gradients pass to the discriminator; on an evaluation under ``no_grad`` they are enabled inside.
    """
    with torch.enable_grad():
        share = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
        between = torch.lerp(fake.detach().to(real.dtype), real.detach(), share).requires_grad_()
        # The root has no derivative at 0, where a critic that ignores its input starts.
        norm = (zero_centred(judge(between), between) + 1e-12).sqrt()
        return (norm - 1).square()
