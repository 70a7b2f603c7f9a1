"""Readouts on frozen features, trained together, and what one pass over the data measures with them.

A readout turns the features of a site into N × F numbers (``pool``) and those into logits by one matrix without bias.
For tokens the pooling weights come from the full features, so the logits are a sum over channels and the fields of all
units add up to them (defined here; the readout follows the CCT head, without its normalisation). For maps pooling is
flattening (paper C, released code), where asked for after averaging each map down to a coarser grid (defined here).
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.data import Dataset, Split
from snp_lib.training.augmentation import Augmentation
from snp_lib.training.loop import uses_bfloat16
from snp_lib.training.recipe import Recipe
from snp_lib.training.schedules import warmup_cosine
from snp_lib.training.seeds import epoch_seed, shuffled_batches
from snp_lib.training.stopping import Stopped, StopRequests


@dataclass(frozen=True, kw_only=True)
class ReadoutRecipe:
    """How readouts are trained: AdamW, cosine to zero, cross-entropy, the backbone's own augmentation.

    Raises:
        ValueError: a number out of range.
    """

    epochs: int
    batch_size: int
    lr: float = 2e-3
    weight_decay: float = 1e-4
    map_side: int | None = None  # maps are averaged to so many places a side before flattening; None: as they are

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if self.map_side is not None and self.map_side < 1:
            raise ValueError(f"map_side must be at least 1 or None, got {self.map_side}")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(f"lr must be positive and weight_decay not negative, got {self.lr} and {self.weight_decay}")


class TokenReadout(nn.Module):
    """Sequence pooling, then a linear layer without bias: features (N, T, d) to logits (N, num_classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.linear = nn.Linear(width, num_classes, bias=False)
        for layer in (self.score, self.linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def pool(self, features: Float[Tensor, "n t d"]) -> Float[Tensor, "n d"]:
        """Mean of the tokens weighted by the softmax of one learned score each."""
        attention = self.score(features).softmax(dim=1)  # (N, T, 1)
        return torch.bmm(attention.transpose(1, 2), features).squeeze(1)

    def forward(self, features: Float[Tensor, "n t d"]) -> Float[Tensor, "n k"]:
        logits: Tensor = self.linear(self.pool(features))
        return logits


class MapReadout(nn.Module):
    """Flatten, then a linear layer without bias: feature maps (N, C, h, w) to logits (N, num_classes).

    Args:
        channels: filters, C.
        side: h and w of the maps; with ``(h, w)`` smaller than the maps, each is first averaged down to that grid.
    """

    def __init__(self, channels: int, side: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.side = side
        self.linear = nn.Linear(channels * side[0] * side[1], num_classes, bias=False)

    def pool(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """All features of an image in a row, those of a filter side by side."""
        return F.adaptive_avg_pool2d(features, self.side).flatten(1)

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        logits: Tensor = self.linear(self.pool(features))
        return logits


Readout = TokenReadout | MapReadout


def make_readout(features: Tensor, num_classes: int, *, map_side: int | None = None) -> Readout:
    """The readout for features of this shape; raises ValueError unless they are tokens (3-D) or maps (4-D)."""
    if features.ndim == 3:
        return TokenReadout(features.shape[2], num_classes)
    if features.ndim == 4:
        height, width = (min(side, map_side or side) for side in features.shape[2:])
        return MapReadout(features.shape[1], (height, width), num_classes)
    raise ValueError(f"features must be tokens (N, T, d) or maps (N, C, h, w), got shape {tuple(features.shape)}")


def train_readouts(
    model: nn.Module,
    dataset: Dataset,
    sites: Sequence[str],
    recipe: ReadoutRecipe,
    augmentation: Recipe,
    *,
    seed: int,
    deadline: float = math.inf,
    progress: bool = True,
) -> dict[str, Readout]:
    """Train one readout per site, all from the same frozen forward pass of each step.

    The readouts share no parameter, so this equals training each alone on the same batches.

    Args:
        model: trained network; used in eval mode and left unchanged.
        augmentation: the recipe whose augmentation is applied, without the mixing of images: a class mean needs images of
            one label; its precision holds for the frozen network, the readouts are trained in float32.

    Returns:
        Site name to trained readout, in eval mode on the model's device.

    Raises:
        Stopped: ``time.monotonic()`` passed the deadline, or SIGTERM came; readouts start again next time.
        ValueError: no site, an unknown site, or fewer training images than one batch.
    """
    if not sites:
        raise ValueError("name at least one site")
    if len(dataset.train) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {len(dataset.train)} training images")
    device = next(model.parameters()).device
    model.eval()
    images, labels = dataset.train.images.to(device), dataset.train.labels.to(device)
    augment = Augmentation(augmentation, images, dataset.num_classes)
    bfloat16 = uses_bfloat16(augmentation.precision, device)
    with torch.no_grad():
        _, example = model(augment.normalize(images[:1]), sites=sites)
    readouts = {}
    for site in sites:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{seed} {site}".encode()))  # initial weights do not depend on the other sites
            readouts[site] = make_readout(example[site], dataset.num_classes, map_side=recipe.map_side).to(device)
    parameters = [p for readout in readouts.values() for p in readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    steps = len(labels) // recipe.batch_size
    bar = tqdm(total=recipe.epochs * steps, desc="readouts", unit="step", disable=not progress, leave=False)
    with StopRequests() as requests:
        for epoch in range(recipe.epochs):
            generator = torch.Generator(device).manual_seed(epoch_seed(seed, epoch))
            for step, batch in enumerate(shuffled_batches(len(labels), recipe.batch_size, generator)):
                for group in optimizer.param_groups:
                    group["lr"] = warmup_cosine(epoch * steps + step, total=recipe.epochs * steps, warmup=0, peak=recipe.lr, end=0.0)
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    _, features = model(augment(images[batch], generator), sites=sites)
                losses = [F.cross_entropy(readouts[site](features[site].float()), labels[batch]) for site in sites]
                optimizer.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()
                optimizer.step()
                bar.update()
                if requests.pending or time.monotonic() > deadline:
                    bar.close()
                    raise Stopped(
                        requests.reason,
                        "while the readouts were trained",
                        "the network is kept, the readouts start again: give them more time",
                    )
    bar.close()
    return {site: readout.eval() for site, readout in readouts.items()}


def images_per_label(split: Split, num_classes: int) -> Int64[Tensor, " k"]:
    """Images of each label; raises ValueError where a label has none, so that no mean over its images exists."""
    counts = torch.bincount(split.labels, minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"label {int((counts == 0).nonzero()[0])} has no image in this split")
    return counts


@dataclass(frozen=True)
class Measurement:
    """What one pass over a split measures. K labels; F pooled features at a site, channel by channel."""

    class_means: Mapping[str, Float32[Tensor, "k f"]]  # mean pooled features of the images of each label
    readout_accuracy: Mapping[str, float]  # of each site's readout, in [0, 1]
    logits: Float32[Tensor, "n k"]  # of the network itself, in the order of the split


@torch.no_grad()
def measure(
    model: nn.Module,
    readouts: Mapping[str, Readout],
    split: Split,
    normalize: Callable[[Tensor], Tensor],
    *,
    num_classes: int,
    batch_size: int = 128,
    progress: bool = False,
) -> Measurement:
    """Class means, readout accuracy and logits at every site, in one forward pass over the split.

    Raises:
        ValueError: a label of the split has no image, so its mean does not exist.
    """
    counts = images_per_label(split, num_classes)
    device = next(model.parameters()).device
    model.eval()
    sums: dict[str, Float64[Tensor, "k f"]] = {}
    hits = {site: torch.zeros((), dtype=torch.long, device=device) for site in readouts}
    logits = []
    batches = zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
    steps = -(-len(split) // batch_size)
    for images, labels in tqdm(batches, total=steps, desc="class means", unit="step", disable=not progress, leave=False):
        labels = labels.to(device)
        output, features = model(normalize(images.to(device)), sites=list(readouts))
        logits.append(output.float())
        for site, readout in readouts.items():
            pooled = readout.pool(features[site])
            hits[site] += (readout.linear(pooled).argmax(1) == labels).sum()
            if site not in sums:
                sums[site] = torch.zeros(num_classes, pooled.shape[1], dtype=torch.float64, device=device)
            sums[site].index_add_(0, labels, pooled.double())
    return Measurement(
        class_means={site: (total / counts.to(device).unsqueeze(1)).float().cpu() for site, total in sums.items()},
        readout_accuracy={site: int(hit) / len(split) for site, hit in hits.items()},
        logits=torch.cat(logits).cpu(),
    )
