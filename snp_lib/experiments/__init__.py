"""Experiments by name: data set, network, recipe and readout at a scale, frozen and hashed."""

from snp_lib.experiments.catalogue import (
    BY_DATASET as BY_DATASET,
    CATALOGUE as CATALOGUE,
    SETS as SETS,
    get as get,
    members as members,
    on as on,
    parse_seeds as parse_seeds,
)
from snp_lib.experiments.experiment import (
    SCALES as SCALES,
    Entry as Entry,
    Experiment as Experiment,
    Scale as Scale,
    digest as digest,
    initial_model as initial_model,
)
from snp_lib.experiments.paper_b import (
    convolutions_first as convolutions_first,
    head_counts as head_counts,
    in_place as in_place,
    with_heads as with_heads,
)
from snp_lib.experiments.text import keep_own as keep_own
