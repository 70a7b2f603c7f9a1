"""Performance of single nodes, heads and filters: readouts, matrices, clusters, noise."""

from snp_lib.performance.ablation import Explanation, HeadAblation, ablate_heads, ablated_logits, claims_explain, kept_heads
from snp_lib.performance.clusters import THETA, Summary, binarize, cluster_index, diagonal_sets, find_clusters, summarize
from snp_lib.performance.heads import (
    NOBODY,
    Agreement,
    ModusVivendi,
    SymmetryBreaking,
    agreement,
    claims,
    experts,
    majority,
    modus_vivendi,
    mutual_information,
    shuffled_claims,
    symmetry_breaking,
)
from snp_lib.performance.matrices import group_units, unit_matrices
from snp_lib.performance.readout import Measurement, Pooling, ReadoutRecipe, measure, train_readouts
from snp_lib.performance.silencing import SilencedFirst, jaccard

__all__ = [
    "NOBODY",
    "THETA",
    "Agreement",
    "Explanation",
    "HeadAblation",
    "Measurement",
    "ModusVivendi",
    "Pooling",
    "ReadoutRecipe",
    "SilencedFirst",
    "Summary",
    "SymmetryBreaking",
    "ablate_heads",
    "ablated_logits",
    "agreement",
    "binarize",
    "claims",
    "claims_explain",
    "cluster_index",
    "diagonal_sets",
    "experts",
    "find_clusters",
    "group_units",
    "jaccard",
    "kept_heads",
    "majority",
    "measure",
    "modus_vivendi",
    "mutual_information",
    "shuffled_claims",
    "summarize",
    "symmetry_breaking",
    "train_readouts",
    "unit_matrices",
]
