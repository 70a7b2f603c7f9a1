"""From single nodes to the site: how accurate a readout must be if its nodes fluctuate so much around such class means.

The score of output j is a sum of single-nodal fields, ``s_j(x) = Σ_u W_ju φ_u(x)``. Its mean over the inputs of label i is
the sum of the SNP matrices, ``⟨s_j⟩_i = Σ_u M^u_ij``; around it the score scatters as the nodes do among the inputs of one
label, with covariance ``W Σ Wᵀ``, where Σ is that of the nodes. Were scores Gaussian, the accuracy on label i would be the
probability that output i is the largest (defined here). With a diagonal Σ this takes means and variances of single nodes and
nothing else: nodes are taken as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.models import Network
from snp_lib.performance.readout import Readout

Values = Float[np.ndarray, "label node"]


@dataclass(frozen=True)
class Moments:
    """Sums over inputs of the pooled features of a site, and how many of each label its readout got right.

    Two of them add up to those of all inputs together. Means and variances need at least two inputs of every label.

    Attributes:
        counts, hits: inputs of each label, and those of them whose largest score is the label's.
        sums, squares: of every node's feature over the inputs of each label.
        products: of every pair of nodes, over all inputs.
    """

    counts: Float64[np.ndarray, " label"]
    hits: Float64[np.ndarray, " label"]
    sums: Float64[np.ndarray, "label node"]
    squares: Float64[np.ndarray, "label node"]
    products: Float64[np.ndarray, "node node"]

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def accuracy(self) -> Float64[np.ndarray, " label"]:
        """Share of the inputs of each label that the readout got right."""
        return np.asarray(self.hits / self.counts)

    @property
    def means(self) -> Float64[np.ndarray, "label node"]:
        """Class means, as those of :func:`snp_lib.performance.measure`."""
        return np.asarray(self.sums / self.counts[:, None])

    @property
    def variances(self) -> Float64[np.ndarray, "label node"]:
        """Variance of each node among the inputs of each label, unbiased, in squared units of the feature."""
        counts = self.counts[:, None]
        return np.asarray(np.maximum(self.squares - counts * self.means**2, 0) / (counts - 1))

    @property
    def covariance(self) -> Float64[np.ndarray, "node node"]:
        """Covariance of the nodes around their class means, pooled over labels, unbiased."""
        between = (self.means * self.counts[:, None]).T @ self.means
        return np.asarray((self.products - between) / (self.counts.sum() - len(self.counts)))


@torch.no_grad()
def moments(
    model: Network,
    readouts: Mapping[str, Readout],
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    *,
    num_classes: int,
    parts: int = 1,
    batch_size: int = 16,
    bfloat16: bool = False,
    progress: bool = False,
) -> dict[str, list[Moments]]:
    """Moments of the pooled features at every site, as its readout sees them, in one forward pass over the split.

    Args:
        parts: of the split, dealt in turn, each with moments of its own.
        batch_size: inputs at a time; few stay in the cache of a processor.
        bfloat16: the network's products in bfloat16; pooling and sums stay as they are.

    Returns:
        Site → the moments of each part.
    """
    device = next(model.parameters()).device
    model.eval()
    sums: dict[str, list[list[Tensor]]] = {}
    begin = 0
    steps = -(-len(split) // batch_size)
    for inputs, labels in tqdm(split.batches(batch_size), total=steps, desc="moments", unit="step", disable=not progress, leave=False):
        labels, part = labels.to(device), (begin + torch.arange(len(labels), device=device)) % parts
        begin += len(labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            prepared = prepare(inputs.to(device))
            _, features = model(prepared, sites=list(readouts))
            mask = model.mask(prepared)
        for site, readout in readouts.items():
            pooled = readout.pool(features[site].float(), mask)
            right, x = (readout.linear(pooled).argmax(1) == labels).double(), pooled.double()
            of_parts = sums.setdefault(site, _nothing(parts, num_classes, x))
            for p, total in enumerate(of_parts):
                own = part == p
                terms = torch.ones_like(right[own]), right[own], x[own], x[own] ** 2
                for target, values in zip(total, terms, strict=False):  # the last, of pairs, knows no label
                    target.index_add_(0, labels[own], values)
                total[-1] += x[own].T @ x[own]
    return {site: [Moments(*(tensor.cpu().numpy() for tensor in total)) for total in of_parts] for site, of_parts in sums.items()}


def _nothing(parts: int, labels: int, x: Float64[Tensor, "n node"]) -> list[list[Tensor]]:
    """Sums of no input, in the order of the attributes of :class:`Moments`."""
    nodes = x.shape[1]
    shapes: tuple[tuple[int, ...], ...] = ((labels,), (labels,), (labels, nodes), (labels, nodes), (nodes, nodes))
    return [[x.new_zeros(shape) for shape in shapes] for _ in range(parts)]


def independent(weight: Values, variances: Float[np.ndarray, "*label node"]) -> Float[np.ndarray, "*label output output"]:
    """Covariance of the scores of nodes that fluctuate independently, W diag(σ²) Wᵀ: for all labels, or one for each.

    Args:
        weight: of the readout, a row for each output.
        variances: σ² of the nodes.
    """
    return np.asarray((weight * variances[..., None, :]) @ weight.T)


def gaussian_accuracy(
    scores: Float[np.ndarray, "label output"],
    covariance: Float[np.ndarray, "output output"] | Float[np.ndarray, "label output output"],
    *,
    draws: int = 1024,
    seed: int = 0,
) -> Float[np.ndarray, " label"]:
    """Probability for each label that its own output has the largest of Gaussian scores, from so many draws a label.

    The standard error of the mean over K labels is at most 0.5/√(K · draws): 0.16 % for a hundred labels and 1,024 draws.

    Args:
        scores: mean score of every output over the inputs of each label.
        covariance: of the scores, for all labels or one for each; may be singular.
        seed: of the draws; equal seeds draw alike at every site.

    Raises:
        ValueError: no draw.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    rng = np.random.default_rng(seed)
    roots = _root(covariance) if covariance.ndim == 3 else np.broadcast_to(_root(covariance), (len(scores), *covariance.shape))
    found = np.empty(len(scores))
    for label, (mean, root) in enumerate(zip(scores.astype(np.float32), roots, strict=True)):
        drawn = mean + rng.standard_normal((draws, len(root)), dtype=np.float32) @ root.T
        found[label] = (drawn.argmax(axis=1) == label).mean()
    return found


def _root(covariance: Float[np.ndarray, "*label output output"]) -> Float[np.ndarray, "*label output output"]:
    """A matrix R with R Rᵀ = covariance; eigenvalues below zero are rounding and count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0))[..., None, :]).astype(np.float32)


def noise_ratio(weight: Values, covariance: Float[np.ndarray, "node node"]) -> float:
    """Variance of the difference of two scores over that of independent nodes, each averaged over all pairs of outputs.

    One: correlations of the nodes cancel in the sum. Above one they add up to noise that no averaging over nodes takes away.
    It does not change where one vector is added to the weights of all outputs.
    """
    free = weight - weight.mean(axis=0)  # Σ over pairs of |W_i − W_j|² is K Σ |W_j − mean|²
    return float(np.trace(free @ covariance @ free.T) / np.trace(independent(free, np.diagonal(covariance))))


def typical_correlation(covariance: Float[np.ndarray, "node node"]) -> float:
    """Root mean square of the correlations of all pairs of different nodes; nodes that never change count for nothing."""
    variances = np.diagonal(covariance)
    live = variances > 0
    inverse = 1 / np.sqrt(variances[live])
    correlations = covariance[np.ix_(live, live)] * inverse * inverse[:, None]
    pairs = ~np.eye(len(correlations), dtype=bool)
    return float(np.sqrt((correlations[pairs] ** 2).mean()))
