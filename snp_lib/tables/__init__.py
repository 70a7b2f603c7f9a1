"""Results of several runs as data frames, one row per measured thing, ready to plot."""

from snp_lib.models.sites import split_site
from snp_lib.tables.claims import benchmark, claims_side_by_side, claims_table
from snp_lib.tables.committees import committees, diagonals, gain_of_labels
from snp_lib.tables.heads import ablated_accuracy, expert_agreement, explanations, symmetry, symmetry_at_stages
from snp_lib.tables.pruning import difference_per_seed, paired, pruned, pruned_latency
from snp_lib.tables.sites import KINDS, per_run, readout_accuracy, rises, shuffle_outputs, site_statistics, training_history
from snp_lib.tables.variants import accuracies, depth_of, frontier, head_statistics, mean_sd, side_by_side

__all__ = [
    "KINDS",
    "ablated_accuracy",
    "accuracies",
    "benchmark",
    "claims_side_by_side",
    "claims_table",
    "committees",
    "depth_of",
    "diagonals",
    "difference_per_seed",
    "expert_agreement",
    "explanations",
    "frontier",
    "gain_of_labels",
    "head_statistics",
    "mean_sd",
    "paired",
    "per_run",
    "pruned",
    "pruned_latency",
    "readout_accuracy",
    "rises",
    "shuffle_outputs",
    "side_by_side",
    "site_statistics",
    "split_site",
    "symmetry",
    "symmetry_at_stages",
    "training_history",
]
