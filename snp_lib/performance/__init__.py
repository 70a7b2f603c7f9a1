"""Performance of single nodes, heads and filters: readouts, matrices, clusters, noise."""

from snp_lib.performance.class_means import measure as measure
from snp_lib.performance.clusters import (
    THETA as THETA,
    Summary as Summary,
    binarize as binarize,
    diagonal_sets as diagonal_sets,
    find_clusters as find_clusters,
    summarize as summarize,
)
from snp_lib.performance.matrices import group_units as group_units, unit_matrices as unit_matrices
from snp_lib.performance.readout import ReadoutRecipe as ReadoutRecipe, train_readouts as train_readouts
