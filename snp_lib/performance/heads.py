"""Which attention heads know which labels: claims, their null model, experts, and agreement between seeds.

Source: the question is that of paper A (arXiv:2501.12900); every formula here is defined here. Head h of H owns the nodes
h·d/H … (h+1)·d/H of an ``mha`` site. The claims are A[h, l], the nodes of head h with label l in their diagonal set D_u.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy
from scipy.stats import false_discovery_control

from snp_lib.performance.clusters import THETA, Summary, binarize, diagonal_sets
from snp_lib.performance.statistics import _with_observed, p_value, shuffled_orders

NOBODY = -1  # the expert of a label that has none

CHUNK = 256  # shuffles summed at a time, so that memory does not grow with their number


def claims(nodes: Summary | ArrayLike, num_heads: int, threshold: float = THETA) -> Int[np.ndarray, "head label"]:
    """A[h, l], the number of nodes of head h that recognise label l.

    Args:
        nodes: a summary of the nodes of an ``mha`` site, their diagonal sets (node, label), or their performance matrices
            (node, label, label).
        num_heads: H; the nodes stand head by head.
        threshold: θ for matrices; summaries and sets have been thresholded already and ignore it.

    Raises:
        ValueError: the nodes do not divide into this many heads, or what :func:`snp_lib.performance.binarize` raises.
    """
    sets = _node_sets(nodes, num_heads, threshold)
    own: np.ndarray = _claims(sets, np.arange(len(sets))[None], num_heads)[0]
    return own


def shuffled_claims(
    nodes: Summary | ArrayLike, num_heads: int, *, permutations: int = 1000, seed: int = 0, threshold: float = THETA
) -> Int[np.ndarray, "permutation head label"]:
    """Claims after the nodes were dealt anew to the heads: the null model in which a head is no more than d/H nodes.

    A shuffle moves whole nodes, so it keeps the size of every head, the set of every node and the claims on every label.

    Raises:
        ValueError: as :func:`claims`, or fewer than one permutation.
    """
    sets = _node_sets(nodes, num_heads, threshold)
    return _claims(sets, shuffled_orders(len(sets), permutations, np.random.default_rng(seed)), num_heads)


def mutual_information(claims: Int[np.ndarray, "*batch head label"]) -> Float[np.ndarray, "*batch"]:
    """Mutual information of head and label under the joint distribution A / ΣA, in bits; at most log2 H, NaN without claims.

    How much the head of a random claim tells about its label. Few claims make it positive by chance alone: compare it
    with :func:`shuffled_claims`.
    """
    counts = claims.astype(np.float64)
    head, label = counts.sum(axis=-1), counts.sum(axis=-2)
    total = label.sum(axis=-1)
    some = np.maximum(total, 1)
    # Σ p·log(p / (p_h·p_l)) with p = A/n, gathered so that no probability is ever formed
    nats = (xlogy(counts, counts).sum((-2, -1)) - xlogy(head, head).sum(-1) - xlogy(label, label).sum(-1)) / some + np.log(some)
    # without dependence the sum is zero up to rounding, and no information is negative
    return np.asarray(np.where(total > 0, np.maximum(nats, 0) / np.log(2), np.nan))


@dataclass(frozen=True)
class SymmetryBreaking:
    """Claims against the null of nodes shuffled between heads. H heads, K labels, P shuffles.

    Attributes:
        claims: (H, K) A[h, l].
        z: (H, K) (A − E) / sd with the null's exact moments, those of the hypergeometric distribution; 0 where the null
            allows one value only (a label that no node or every node recognises).
        p: (H, K) two-sided, (1 + shuffles with ``|A* − E| ≥ |A − E|``) / (1 + P), so never below 1 / (1 + P).
        q: (H, K) p after Benjamini-Hochberg over all (head, label) for which the null allows more than one value; else 1.
            With m such pairs, none has q ≤ α unless at least m / (α (1 + P)) of them have the smallest p: raise P for rare experts.
        information: mutual information of head and label, bits.
        null_information: (P,) the same of every shuffle, bits.
    """

    claims: Int[np.ndarray, "head label"]
    z: Float[np.ndarray, "head label"]
    p: Float[np.ndarray, "head label"]
    q: Float[np.ndarray, "head label"]
    information: float
    null_information: Float[np.ndarray, " permutation"]

    @property
    def null_mean(self) -> float:
        """Mean information of the shuffles in bits, what the finite number of nodes gives by chance."""
        return float(self.null_information.mean())

    @property
    def null_sd(self) -> float:
        """Standard deviation of the information of the shuffles, bits."""
        return float(self.null_information.std())

    @property
    def information_p(self) -> float:
        """One-sided, (1 + shuffles with at least the observed information) / (1 + P); NaN without claims."""
        return float(p_value(self.null_information, self.information))

    def claimed(self, alpha: float = 0.05) -> Bool[np.ndarray, "head label"]:
        """Labels that a head claims with significance: q ≤ α and more nodes than expected (avoiding a label is no claim)."""
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
        claimed: np.ndarray = (self.q <= alpha) & (self.z > 0)
        return claimed


def symmetry_breaking(
    nodes: Summary | ArrayLike, num_heads: int, *, permutations: int = 10_000, seed: int = 0, threshold: float = THETA
) -> SymmetryBreaking:
    """Do the heads share the labels more unevenly than heads made of the same nodes at random?

    Args:
        nodes, num_heads, threshold: as :func:`claims` takes them.
        permutations: shuffles, P. 10,000 let a single one of 4 heads × 100 labels pass the correction; 1,000 would need eight.
        seed: of the shuffles.

    Raises:
        ValueError: as :func:`claims`, or fewer than one permutation.
    """
    sets = _node_sets(nodes, num_heads, threshold)
    observed = _claims(sets, np.arange(len(sets))[None], num_heads)[0]
    orders = shuffled_orders(len(sets), permutations, np.random.default_rng(seed))
    size, total = len(sets), sets.sum(axis=0)  # (K,) nodes that recognise each label
    deviation = num_heads * observed - total  # H (A − E): whole numbers, so that ties are ties
    share = total / size
    variance = size / num_heads * share * (1 - share) * (size - size / num_heads) / max(size - 1, 1)
    free = np.broadcast_to(variance > 0, observed.shape)
    z = np.divide(deviation / num_heads, np.sqrt(variance), out=np.zeros(observed.shape), where=free)
    reached, null_information = np.zeros(observed.shape, dtype=np.int64), []
    for start in range(0, permutations, CHUNK):
        shuffled = _claims(sets, orders[start : start + CHUNK], num_heads)
        reached += (np.abs(num_heads * shuffled - total) >= np.abs(deviation)).sum(axis=0)
        null_information.append(mutual_information(shuffled))
    p = _with_observed(reached, permutations)
    q = np.ones(observed.shape)
    if free.any():
        q[free] = false_discovery_control(p[free])
    return SymmetryBreaking(observed, z, p, q, float(mutual_information(observed)), np.concatenate(null_information))


def experts(claims: Int[np.ndarray, "head label"]) -> Int[np.ndarray, " label"]:
    """Expert head of each label: the one head with most claims; −1 where two heads tie for most or nobody claims the label."""
    most = claims.max(axis=0)
    alone = ((claims == most).sum(axis=0) == 1) & (most > 0)
    return np.where(alone, claims.argmax(axis=0), NOBODY)


def majority(claims: Int[np.ndarray, "head label"]) -> Bool[np.ndarray, "head label"]:
    """Labels of which a head has more than half of all claims; at most one head per label, so these sets never overlap."""
    claimed: np.ndarray = 2 * claims > claims.sum(axis=0)
    return claimed


@dataclass(frozen=True)
class ModusVivendi:
    """How the heads share the labels. H heads, K labels.

    Attributes:
        experts: (K,) expert head of each label, −1 for none.
        labels_per_head: (H,) labels whose expert a head is.
        tied: labels without an expert because two or more heads tie for most claims.
        unclaimed: labels without an expert because no node recognises them.
        coverage: share of all labels that at least one head claims.
        overlap: Jaccard index of the claimed sets, ``|∩| / |∪|``, averaged over pairs of heads of which at least one
            claims a label; NaN without such a pair.
        entropy: of the distribution of experts over heads, bits, at most log2 H; NaN without experts.
    """

    experts: Int[np.ndarray, " label"]
    labels_per_head: Int[np.ndarray, " head"]
    tied: int
    unclaimed: int
    coverage: float
    overlap: float
    entropy: float


def modus_vivendi(claims: Int[np.ndarray, "head label"], claimed: Bool[np.ndarray, "head label"]) -> ModusVivendi:
    """The division of labour between the heads of one block.

    Args:
        claims: A[h, l]; they name the experts.
        claimed: the sets for coverage and overlap, :meth:`SymmetryBreaking.claimed` or :func:`majority`.

    Raises:
        ValueError: claims and claimed sets of different shape.
    """
    if claims.shape != claimed.shape:
        raise ValueError(f"claims and claimed must agree in heads and labels, got {claims.shape} and {claimed.shape}")
    expert = experts(claims)
    per_head = np.bincount(expert[expert != NOBODY], minlength=len(claims))
    unclaimed = int((claims.sum(axis=0) == 0).sum())
    share = per_head[per_head > 0] / max(per_head.sum(), 1)
    pairs = [(np.sum(a & b), np.sum(a | b)) for a, b in combinations(claimed, 2)]
    indices = [both / either for both, either in pairs if either]
    return ModusVivendi(
        experts=expert,
        labels_per_head=per_head,
        tied=int((expert == NOBODY).sum()) - unclaimed,
        unclaimed=unclaimed,
        coverage=float(claimed.any(axis=0).mean()),
        overlap=float(np.mean(indices)) if indices else float("nan"),
        entropy=float((share * np.log2(1 / share)).sum()) if len(share) else float("nan"),
    )


@dataclass(frozen=True)
class Agreement:
    """Do two seeds give the labels to the same heads? Shares of the labels that have an expert in both, P shuffles.

    The heads of two seeds have no common names. ``same`` compares them by number: chance level says that the symmetry was
    broken spontaneously. ``best`` first renames the heads of the second seed in the best way: above its own, higher,
    chance level it says that the same labels go together, whichever head takes them.

    Attributes:
        labels: labels that have an expert in both seeds; without one every share and p is NaN.
        same: share of them with the same expert.
        best: the largest such share over all renamings of the heads.
        renaming: (H,) head of the second seed that stands for each head of the first in ``best``.
        null_same, null_best: (P,) both shares after the experts of the second seed were shuffled between these labels.
    """

    labels: int
    same: float
    best: float
    renaming: Int[np.ndarray, " head"]
    null_same: Float[np.ndarray, " permutation"]
    null_best: Float[np.ndarray, " permutation"]

    @property
    def same_p(self) -> float:
        """One-sided permutation p-value of ``same``."""
        return float(p_value(self.null_same, self.same))

    @property
    def best_p(self) -> float:
        """One-sided permutation p-value of ``best``; every shuffle has its own best renaming."""
        return float(p_value(self.null_best, self.best))


def agreement(
    first: Int[np.ndarray, " label"], second: Int[np.ndarray, " label"], num_heads: int, *, permutations: int = 1000, seed: int = 0
) -> Agreement:
    """Agreement of the experts of two seeds, as they stand and after the best renaming of heads, against chance.

    Args:
        first, second: experts of the same labels, as :func:`experts` gives them.

    Raises:
        ValueError: experts of different numbers of labels, an expert that is no head, or fewer than one permutation.
    """
    if first.shape != second.shape:
        raise ValueError(f"the two seeds have experts of {len(first)} and {len(second)} labels")
    for name, expert in (("first", first), ("second", second)):
        if len(wrong := expert[(expert < NOBODY) | (expert >= num_heads)]):
            raise ValueError(f"{name} names head {wrong[0]}; there are heads 0 to {num_heads - 1}, and {NOBODY} for none")
    both = (first != NOBODY) & (second != NOBODY)
    a, b = first[both], second[both]
    orders = np.concatenate([np.arange(len(a))[None], shuffled_orders(len(a), permutations, np.random.default_rng(seed))])
    # (1 + P, H, H) labels of head i in the first seed and head j in the second; row 0 is what was observed
    cells = (np.arange(len(orders))[:, None] * num_heads + a) * num_heads + b[orders]
    counts = np.bincount(cells.ravel(), minlength=len(orders) * num_heads**2).reshape(-1, num_heads, num_heads)
    renamings = [linear_sum_assignment(table, maximize=True)[1] for table in counts]
    scale = len(a) or float("nan")
    same = np.trace(counts, axis1=1, axis2=2) / scale
    best = np.array([table[np.arange(num_heads), renaming].sum() for table, renaming in zip(counts, renamings, strict=True)]) / scale
    return Agreement(len(a), float(same[0]), float(best[0]), renamings[0], same[1:], best[1:])


def _node_sets(nodes: Summary | ArrayLike, num_heads: int, threshold: float) -> Bool[np.ndarray, "node label"]:
    sets: np.ndarray
    if isinstance(nodes, Summary):
        sets = nodes.diagonal
    elif (given := np.asarray(nodes)).dtype == bool and given.ndim == 2:
        sets = given
    else:
        sets = diagonal_sets(binarize(nodes, threshold))
    if num_heads < 1 or len(sets) % num_heads or not len(sets):
        raise ValueError(f"{len(sets)} nodes do not divide into {num_heads} heads")
    return sets


def _claims(
    sets: Bool[np.ndarray, "node label"], orders: Int[np.ndarray, "permutation node"], num_heads: int
) -> Int[np.ndarray, "permutation head label"]:
    """Claims with the nodes in each of these orders: an indexed sum."""
    out = np.empty((len(orders), num_heads, sets.shape[1]), dtype=np.int64)
    for start in range(0, len(orders), CHUNK):
        order = orders[start : start + CHUNK]
        out[start : start + CHUNK] = sets[order].reshape(len(order), num_heads, -1, sets.shape[1]).sum(axis=2)
    return out
