"""Accuracy without single residual units, nothing retrained.

Source: Park and Kim, arXiv:2202.06709, section 4 (no code of it was released), after Veit et al., "Residual networks behave like
ensembles of relatively shallow networks", arXiv:1605.06431.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.models.sites import Network, depth_of, evaluating


@torch.no_grad()
def lesioned_logits(model: Network, inputs: Tensor) -> Float[Tensor, "variant n k"]:
    """Logits of the intact network first, and then without what each residual unit adds, in the model's present mode.

    What stands before a unit is computed once for all, so that U units cost little more than U/2 forward passes.

    Args:
        inputs: as the network reads them.

    Raises:
        ValueError: a network without residual units.
    """
    units, end = model.residual_units, depth_of(model.sites) + 1
    if not units:
        raise ValueError(f"{type(model).__name__} says of no residual unit what it adds")
    hidden, logits = model.before(inputs, 1), []
    for number, unit in enumerate(units):
        without = unit.after(unit.skip(hidden))
        for later in units[number + 1 :]:
            without = later(without)
        logits.append(model.behind(without, end))
        hidden = unit(hidden)
    return torch.stack([model.behind(hidden, end), *logits])


@torch.no_grad()
def correct_when_lesioned(
    model: Network,
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 128,
    bfloat16: bool = False,
    progress: bool = False,
) -> Bool[np.ndarray, "variant n"]:
    """Which images the intact network and the network without each residual unit classify correctly.

    Args:
        model: used in eval mode, its weights and modes are left as they were.
        batch_size: images in a pass.
        bfloat16: on a GPU the network's products in bfloat16.

    Raises:
        ValueError: as :func:`lesioned_logits`.
    """
    device, correct, steps = next(model.parameters()).device, [], -(-len(split) // batch_size)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and device.type == "cuda"):
        for inputs, labels in tqdm(split.batches(batch_size), total=steps, desc="lesions", unit="step", disable=not progress, leave=False):
            logits = lesioned_logits(model, prepare(inputs.to(device)))
            correct.append(logits.argmax(2).cpu() == labels)
    return torch.cat(correct, dim=1).numpy()
