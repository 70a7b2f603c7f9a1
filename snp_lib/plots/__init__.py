"""Figures. Everything here draws what it is given and computes nothing but axes."""

from snp_lib.plots.claims import ladder, verdict_table
from snp_lib.plots.heads import ablation_accuracy, correlations
from snp_lib.plots.matrices import claim_maps, cluster_order, matrix_pixels, matrix_triptych
from snp_lib.plots.pruning import latency, masks, pareto, removal
from snp_lib.plots.sites import (
    against_chance,
    along_blocks,
    along_blocks_at_stages,
    along_blocks_by,
    by_kind,
    histograms,
    over_training,
    shaded,
    theta_sweep,
    trained_and_untrained,
    training_curves,
)
from snp_lib.plots.style import COLORS, distinct, set_style
from snp_lib.plots.variants import against_control, frontier, lines, points, scatter

__all__ = [
    "COLORS",
    "ablation_accuracy",
    "against_chance",
    "against_control",
    "along_blocks",
    "along_blocks_at_stages",
    "along_blocks_by",
    "by_kind",
    "claim_maps",
    "cluster_order",
    "correlations",
    "distinct",
    "frontier",
    "histograms",
    "ladder",
    "latency",
    "lines",
    "masks",
    "matrix_pixels",
    "matrix_triptych",
    "over_training",
    "pareto",
    "points",
    "removal",
    "scatter",
    "set_style",
    "shaded",
    "theta_sweep",
    "trained_and_untrained",
    "training_curves",
    "verdict_table",
]
