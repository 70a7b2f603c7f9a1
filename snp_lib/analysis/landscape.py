"""The loss around trained weights, along random directions that are normalised filter by filter.

Source: Li et al., "Visualizing the loss landscape of neural nets", arXiv:1712.09913, section 4: every filter of a direction has
the norm of the filter that it changes; biases, parameters of normalisations and embeddings stay. The code released with Park and
Kim, arXiv:2202.06709, takes norms along the first dimension of a weight instead, one for each place in a filter and not one a
filter; it is here to be compared with. They draw −log p + 0.05 Σ‖θ‖, over all parameter tensors θ, the norms not squared; here the
two terms stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from snp_lib.models.sites import Network, evaluating

Normalization = Literal["filter", "released"]

Direction = Mapping[str, Tensor]
"""Name → change of a parameter; those that stay are left out."""


def weights_of_layers(model: nn.Module) -> dict[str, Tensor]:
    """The weights of all linear and convolutional layers, attention included, by name: what a direction changes."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
    return {
        f"{prefix}.{name}" if prefix else name: parameter.detach()
        for prefix, module in model.named_modules()
        if isinstance(module, layers)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }


def direction(model: nn.Module, generator: torch.Generator, normalization: Normalization = "filter") -> Direction:
    """A Gaussian direction in the weights of the layers, normalised.

    Args:
        generator: of the CPU.
        normalization: ``filter``, one norm for each output filter, or ``released``, one for each place in a filter.
    """
    out = {}
    for name, weight in weights_of_layers(model).items():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        over = tuple(range(1, weight.ndim)) if normalization == "filter" else (0,)
        wanted, given = (torch.linalg.vector_norm(each, dim=over, keepdim=True) for each in (weight, drawn))
        out[name] = drawn * (wanted / given)
    return out


@torch.no_grad()
def losses(
    model: Network,
    inputs: Tensor,
    targets: Int64[Tensor, " n"] | Float[Tensor, "n k"],
    directions: Sequence[Direction],
    steps: Float64[np.ndarray, "point direction"],
    *,
    batch_size: int = 128,
    bfloat16: bool = False,
    progress: bool = False,
) -> tuple[Float64[np.ndarray, " point"], Float64[np.ndarray, " point"]]:
    """Mean −log p in nats, and Σ‖θ‖ over all parameter tensors, at weights plus steps along directions; the same inputs at every point.

    Args:
        model: used in eval mode, its weights and modes are left as they were.
        inputs, targets: as the network reads them, and labels or their shares.
        batch_size: inputs in a pass.
        bfloat16: on a GPU the network's products in bfloat16.
    """
    weights, device = {name: parameter.detach() for name, parameter in model.named_parameters()}, inputs.device
    batches = list(zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True))
    nll, norms = np.zeros(len(steps)), np.zeros(len(steps))
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and device.type == "cuda"):
        for point, step in enumerate(tqdm(steps, desc="landscape", unit="point", disable=not progress, leave=False)):
            moved = dict(weights)
            for length, along in zip(step, directions, strict=True):
                moved |= {name: moved[name] + float(length) * change for name, change in along.items()}
            for batch, target in batches:
                logits = functional_call(model, moved, (batch,)).float()
                nll[point] += float(F.cross_entropy(logits, target, reduction="sum")) / len(inputs)
            norms[point] = sum(float(torch.linalg.vector_norm(parameter)) for parameter in moved.values())
    return nll, norms


def radial(directions: int, radii: Sequence[float]) -> Float64[np.ndarray, "point direction"]:
    """Steps along single directions: every radius along the first, then along the second, and so on."""
    return np.kron(np.eye(directions), np.array(radii, dtype=np.float64)[:, None])


def plane(side: int) -> Float64[np.ndarray, "point direction"]:
    """Steps to a square grid of side × side points on [−1, 1]² in the plane of two directions, the first running fastest."""
    ends = np.linspace(-1, 1, side)
    second, first = np.meshgrid(ends, ends, indexing="ij")
    return np.stack([first.ravel(), second.ravel()], axis=1)
