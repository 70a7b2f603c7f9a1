"""Feature maps by spatial frequency, and accuracy under noise of one frequency.

Source: Park and Kim, "How do vision transformers work?", arXiv:2202.06709, figures 2, 8 and 9, and their released
notebook, with three things put right: frequencies are the true ones (the last is π where the side is even, theirs is labelled
so but is not), networks are in eval mode, and many images are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.models.sites import Network, evaluating

FLOOR = 1e-6  # added to amplitudes before their logarithm, as in the released code

HALF_WIDTH = 0.2  # of a ring of frequencies, in radians a pixel, as in the released code


def diagonal_frequencies(side: int) -> Float64[np.ndarray, " k"]:
    """The frequencies 0, 2/side, … on the diagonal of the spectrum of maps of this side, in units of π radians a pixel.

    The last is 1, the Nyquist frequency, where the side is even, and 1 − 1/side where it is odd.
    """
    return 2 * np.arange(side // 2 + 1) / side


def relative_log_amplitude(maps: Float[Tensor, "n c h h"]) -> Float[Tensor, "n k"]:
    """Logarithm of the amplitude on the diagonal of the spectrum minus that at frequency zero, mean over channels.

    Natural logarithms, at the frequencies of :func:`diagonal_frequencies`.
    """
    side = maps.shape[-1]
    diagonal = torch.fft.rfft2(maps)[..., : side // 2 + 1, :].diagonal(dim1=-2, dim2=-1)
    logarithms = (diagonal.abs() + FLOOR).log()
    relative: Tensor = (logarithms - logarithms[..., :1]).mean(1)
    return relative


def ring(side: int, frequency: float) -> Bool[Tensor, "h h"]:
    """Which frequencies of an image, in the order of ``torch.fft.fft2``, lie on the square ring around one of them.

    Those whose larger part, across or down, is within 0.2 radians a pixel of it, or within half the spacing of frequencies where
    that is more. The released code's ring is not symmetric in ± frequencies, so that it has to drop an imaginary part; this is.

    Args:
        frequency: in units of π radians a pixel, above 0 and at most 1.

    Raises:
        ValueError: another frequency.
    """
    if not 0 < frequency <= 1:
        raise ValueError(f"a frequency lies above 0 and is at most 1, in units of π, got {frequency}")
    angle = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64).abs()
    larger = torch.maximum(angle[:, None], angle)
    inside: Tensor = (larger - math.pi * frequency).abs() <= max(HALF_WIDTH, math.pi / side) + 1e-9
    return inside


def ring_noise(noise: Float[Tensor, "n c h h"], frequency: float, energy: float | None = None) -> Float[Tensor, "n c h h"]:
    """The part of white noise that lies on a ring of frequencies.

    Args:
        frequency: see :func:`ring`.
        energy: mean square of every image's noise afterwards; None: as it comes, which is more the more frequencies a ring has.
    """
    inside = ring(noise.shape[-1], frequency).to(noise.device)
    kept: Tensor = torch.fft.ifft2(torch.fft.fft2(noise) * inside).real
    if energy is None:
        return kept
    return kept * (energy / kept.square().mean((1, 2, 3), keepdim=True)).sqrt()


@torch.no_grad()
def correct_under_noise(
    model: Network,
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    frequencies: Sequence[float],
    *,
    epsilon: float,
    equal_energy: bool,
    seed: int = 0,
    batch_size: int = 128,
    bfloat16: bool = False,
    progress: bool = False,
) -> Bool[np.ndarray, "ring n"]:
    """Which images are classified correctly with noise of one frequency added to them, after they were normalised.

    The white noise is ± ε at every pixel and channel, the same draws for every frequency.

    Args:
        model: used in eval mode, its weights and modes are left as they were.
        frequencies: of the rings, in units of π radians a pixel; 0 stands for no noise.
        epsilon: in standard deviations of the normalised images.
        equal_energy: give every ring the mean energy of all of them; else each has that of its own frequencies.
        seed: of the noise.
        batch_size: images in a pass.
        bfloat16: on a GPU the network's products in bfloat16.
    """
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    correct, steps, rings = [], -(-len(split) // batch_size), [frequency for frequency in frequencies if frequency > 0]
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and device.type == "cuda"):
        for inputs, labels in tqdm(split.batches(batch_size), total=steps, desc="noise", unit="step", disable=not progress, leave=False):
            images = prepare(inputs.to(device))
            white = epsilon * torch.randn(images.shape, generator=generator).sign().to(device)
            share = float(torch.stack([ring(images.shape[-1], each).double().mean() for each in rings]).mean()) if rings else 0.0
            energy = epsilon**2 * share if equal_energy else None
            noisy = [images + ring_noise(white, each, energy) if each > 0 else images for each in frequencies]
            correct.append(torch.stack([model(each).argmax(1).cpu() == labels for each in noisy]))
    return torch.cat(correct, dim=1).numpy()
