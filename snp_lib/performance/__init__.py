"""Performance of single nodes, heads and filters: readouts, matrices, clusters, noise."""

from snp_lib.performance.clusters import THETA, Summary, binarize, cluster_index, diagonal_sets, find_clusters, summarize
from snp_lib.performance.matrices import group_units, unit_matrices
from snp_lib.performance.readout import Measurement, ReadoutRecipe, measure, train_readouts

__all__ = [
    "THETA",
    "Measurement",
    "ReadoutRecipe",
    "Summary",
    "binarize",
    "cluster_index",
    "diagonal_sets",
    "find_clusters",
    "group_units",
    "measure",
    "summarize",
    "train_readouts",
    "unit_matrices",
]
