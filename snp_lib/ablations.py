"""Head ablation of a finished run, kept with it."""

from __future__ import annotations

import functools

import numpy as np

from snp_lib import data, making
from snp_lib.derived import Arrays, derived
from snp_lib.performance import HeadAblation, ablate_heads, kept_heads
from snp_lib.performance.ablation import Replacement
from snp_lib.store import Run
from snp_lib.training.augmentation import make_normalize


def head_ablation(
    run: Run, replacement: Replacement = "zero", *, device: str = "auto", refresh: bool = False, progress: bool = True
) -> HeadAblation:
    """Accuracy per label on the test split with each head, each pair of heads, and all heads but one switched off.

    At every ``mha`` site of the run, one site at a time; see :func:`snp_lib.performance.ablate_heads`.

    Raises:
        StoreError: the weights of the run are not here, or what is stored is damaged.
        ValueError: the run has no ``mha`` site.
    """
    sites = tuple(site for site in run.sites if site.endswith(".mha"))
    if not sites:
        raise ValueError(
            f"{run.experiment.id} has no mha site, so no heads that could be switched off; its sites are {', '.join(run.sites)}"
        )
    options = {"replacement": replacement, "sites": list(sites)}
    compute = functools.partial(_ablate, run, replacement, device, progress)
    arrays = derived(run, f"ablation-{replacement}", options, compute, refresh=refresh)
    return HeadAblation(
        sites=sites,
        kept=arrays["kept"],
        accuracy=arrays["accuracy"],
        baseline=arrays["baseline"],
        images=arrays["images"],
        replacement=replacement,
    )


def _ablate(run: Run, replacement: Replacement, device: str, progress: bool) -> Arrays:
    place = making.choose_device(device)
    dataset = data.load(run.experiment.dataset, size=run.experiment.dataset_size, progress=progress)
    heads = run.manifest["num_heads"]
    kept = np.concatenate([kept_heads("removed", heads), kept_heads("alone", heads), kept_heads("pairs", heads)])
    normalize = make_normalize(run.experiment.recipe, dataset.train.images.to(place))
    found = ablate_heads(run.transformer().to(place), dataset.test, normalize, kept, replacement=replacement, progress=progress)
    return {"kept": found.kept, "accuracy": found.accuracy, "baseline": found.baseline, "images": found.images}
