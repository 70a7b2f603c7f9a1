"""Figures. Everything here draws what it is given and computes nothing but axes."""

from snp_lib.plots.attention import attention_maps as attention_maps
from snp_lib.plots.claims import ladder as ladder, verdict_dots as verdict_dots, verdict_table as verdict_table
from snp_lib.plots.clouds import clouds as clouds, strips as strips
from snp_lib.plots.committee import cost as cost, gains as gains
from snp_lib.plots.curves import cumulative as cumulative, curves as curves
from snp_lib.plots.matrices import claim_maps as claim_maps, matrix_pixels as matrix_pixels, matrix_triptych as matrix_triptych
from snp_lib.plots.points import (
    against_null as against_null,
    correlations as correlations,
    dots as dots,
    seeds_against_null as seeds_against_null,
)
from snp_lib.plots.pruning import latency as latency, masks as masks, pareto as pareto, removal as removal
from snp_lib.plots.style import COLORS as COLORS, distinct as distinct, set_style as set_style
