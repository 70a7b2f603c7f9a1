"""Pruning by what single nodes recognise: masks and their controls, fine-tuning, real removal."""

from snp_lib.pruning.compact import BlockForm, BlockLinear, Macs, block_permutation, blocked, compact, macs
from snp_lib.pruning.finetune import finetune, prune, shared_logits
from snp_lib.pruning.masks import Layer, Masks, Sets, andc, apply_masks, density, layers, magnitude, random_clusters, random_sets, shuffled

__all__ = [
    "BlockForm",
    "BlockLinear",
    "Layer",
    "Macs",
    "Masks",
    "Sets",
    "andc",
    "apply_masks",
    "block_permutation",
    "blocked",
    "compact",
    "density",
    "finetune",
    "layers",
    "macs",
    "magnitude",
    "prune",
    "random_clusters",
    "random_sets",
    "shared_logits",
    "shuffled",
]
