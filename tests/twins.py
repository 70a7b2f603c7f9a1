"""The plain way to what the library does fast: literal, slow, and read side by side with the definition.

The tests compare the library with these, and ``benchmarks/measurements.py`` times it against them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snp_lib.models.cct import CCT


def is_square(binary: Any, cluster: list[int]) -> bool:
    """Whether the sub-matrix over these labels is all ones; reading stops at the first zero."""
    return all(binary[i, j] for i in cluster for j in cluster)


def counted_square(binary: Any, cluster: list[int]) -> bool:
    """The same by adding up every element, as the code of paper C does it."""
    ones = 0
    for i in cluster:
        for j in cluster:
            ones += binary[i, j]
    return bool(ones == len(cluster) ** 2)


def clusters(binary: Any, square: Any = is_square) -> list[list[int]]:
    """The greedy walk over one thresholded matrix, an array or a tensor, label by label."""
    free = [label for label in range(len(binary)) if binary[label, label]]
    found = []
    while free:
        cluster = [free.pop(0)]
        for label in list(free):
            if square(binary, [*cluster, label]):
                cluster.append(label)
                free.remove(label)
        found.append(cluster)
    return found


def noise(binary: np.ndarray) -> int:
    """Ones outside the squares of the clusters."""
    return int(binary.sum()) - sum(len(cluster) ** 2 for cluster in clusters(binary))


def released_filter(matrix: np.ndarray, threshold: float) -> tuple[list[list[int]], int, int]:
    """Clusters and both noises of one filter, step by step as the released code of paper C takes them.

    The second noise is counted in the columns of the labels in clusters, after the squares of the clusters are cleared.
    """
    labels, largest = len(matrix), matrix.max()
    left = [[int((matrix[i][j] / largest if largest else matrix[i][j]) > threshold) for j in range(labels)] for i in range(labels)]
    diagonal = [i for i in range(labels) if left[i][i] == 1]
    found: list[list[int]] = []
    while diagonal:
        cluster = [diagonal[0]]
        for label in diagonal[1:]:
            grown = [*cluster, label]
            if sum(left[i][j] for i in grown for j in grown) == len(grown) ** 2:
                cluster = grown
        found.append(cluster)
        diagonal = [label for label in diagonal if label not in cluster]
    for cluster in found:
        for i in cluster:
            for j in cluster:
                left[i][j] = 0
    noise = sum(left[i][j] for i in range(labels) for j in range(labels))
    columns = sum(left[i][j] for cluster in found for j in cluster for i in range(labels))
    return found, noise, columns


def andc(sets: dict[str, np.ndarray], model: CCT) -> dict[str, Tensor]:
    """The masks of ANDC weight by weight, with sets of labels."""

    def recognised(site: str) -> list[set[int]]:
        return [set(np.flatnonzero(row)) for row in sets[site]]

    sides = {"classifier.weight": (recognised(f"block{model.config.depth}"), [{j} for j in range(model.config.num_classes)])}
    for b in range(1, model.config.depth + 1):
        stream, hidden, output = (recognised(f"block{b}{kind}") for kind in ("", ".ff_hidden", ".ff"))
        sides[f"encoders.{b - 1}.ff1.weight"] = (stream, hidden)
        sides[f"encoders.{b - 1}.ff2.weight"] = (hidden, output)
    return {
        name: torch.tensor([[len(of_input & of_output) > 0 for of_input in inputs] for of_output in outputs])
        for name, (inputs, outputs) in sides.items()
    }


@contextmanager
def heads_off(model: CCT, site: str, kept: np.ndarray, off: Tensor | None = None) -> Iterator[None]:
    """Heads of a site that are not kept write zero, or ``off``, in whatever whole passes happen inside."""

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        changed, width = output.clone(), output.shape[-1] // len(kept)
        for h in np.flatnonzero(~kept):
            own = slice(h * width, (h + 1) * width)
            changed[..., own] = 0 if off is None else off[own]
        return changed

    block = int(site.removeprefix("block").removesuffix(".mha"))
    handle = model.encoders[block - 1].attention.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
