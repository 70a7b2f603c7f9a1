"""Pruning by what single nodes recognise: masks and their controls, fine-tuning, real removal."""

from snp_lib.pruning.compact import block_permutation as block_permutation, blocked as blocked, compact as compact, macs as macs
from snp_lib.pruning.finetune import finetune as finetune, prune as prune, shared_logits as shared_logits
from snp_lib.pruning.masks import (
    andc as andc,
    apply_masks as apply_masks,
    density as density,
    magnitude as magnitude,
    random_clusters as random_clusters,
    shuffled as shuffled,
)
