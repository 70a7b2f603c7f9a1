"""Figures. Everything here draws what it is given and computes nothing but axes."""

from snp_lib.plots.claims import ladder as ladder, verdict_table as verdict_table
from snp_lib.plots.clouds import clouds as clouds, strips as strips
from snp_lib.plots.curves import correlations as correlations, curves as curves, histograms as histograms, scatter as scatter
from snp_lib.plots.matrices import claim_maps as claim_maps, matrix_pixels as matrix_pixels, matrix_triptych as matrix_triptych
from snp_lib.plots.pruning import frontier as frontier, latency as latency, masks as masks, pareto as pareto, removal as removal
from snp_lib.plots.style import COLORS as COLORS, distinct as distinct, set_style as set_style
