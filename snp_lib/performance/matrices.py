"""Performance matrices: one definition for a node, an attention head and a convolutional filter."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def unit_matrices(
    class_means: Float[Tensor, "label unit part"], weight: Float[Tensor, "output unit part"]
) -> Float[Tensor, "unit label output"]:
    """Performance matrix of every unit of a site: M[u, i, j] = Σ_p weight[j, u, p] · class_means[i, u, p].

    This is the mean, over the images of label i, of the field that unit u alone puts on output j of the readout. The
    field is linear in the features, so the mean over images and the sum over the unit's parts may change places.

    Single-nodal performance (paper A) has one part per unit, single-head performance (B) the d/H channels of a head,
    single-filter performance (C) the h·w places of a filter's map.

    Args:
        class_means: mean pooled features of the images of each label; see :func:`snp_lib.performance.measure`.
        weight: the readout's matrix, its columns grouped by unit in the same order.

    Raises:
        ValueError: other than three dimensions, or units and parts that do not agree.
    """
    if class_means.ndim != 3 or weight.ndim != 3 or class_means.shape[1:] != weight.shape[1:]:
        raise ValueError(
            "class_means (label, unit, part) and weight (output, unit, part) must agree in units and parts, "
            f"got {tuple(class_means.shape)} and {tuple(weight.shape)}"
        )
    return torch.bmm(class_means.transpose(0, 1), weight.permute(1, 2, 0))


def group_units(values: Float[Tensor, "row feature"], units: int) -> Float[Tensor, "row unit part"]:
    """Group the features of a site into ``units`` units of neighbouring features; raises ValueError if they do not divide."""
    if units < 1 or values.shape[1] % units:
        raise ValueError(f"{values.shape[1]} features do not divide into {units} units")
    return values.reshape(values.shape[0], units, -1)
