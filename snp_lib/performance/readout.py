"""Readouts on frozen features, trained together.

A readout turns the features of a site into N × F numbers (``pool``) and those into logits by one matrix without bias.
For tokens this is sequence pooling, whose weights come from the full features, so that the logits are a sum over channels
and the fields of all units add up to them (defined here; it follows the CCT head, without its normalisation); the mean or
all tokens side by side are variants of it. Tokens that are not there, where inputs are padded, weigh nothing. For maps
pooling is flattening (paper C, released code).
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.data import Dataset
from snp_lib.machine import uses_bfloat16
from snp_lib.models import Network
from snp_lib.models.padding import masked
from snp_lib.models.sites import split_site
from snp_lib.training import execution
from snp_lib.training.execution import AHEAD, WARM_UP, Captured
from snp_lib.training.optim import warmup_cosine
from snp_lib.training.preparation import preparation
from snp_lib.training.recipe import Recipe
from snp_lib.training.seeds import epoch_seed, shuffled_batches
from snp_lib.training.stopping import Stopped, StopRequests

Pooling = Literal["mean", "flat"]


@dataclass(frozen=True, kw_only=True)
class ReadoutRecipe:
    """How readouts are trained: AdamW, cosine to zero, cross-entropy, the backbone's own augmentation.

    Raises:
        ValueError: a number out of range, an unknown pooling, or no kind.
    """

    epochs: int
    batch_size: int
    lr: float = 2e-3
    weight_decay: float = 1e-4
    pooling: Pooling | None = None  # None: sequence pooling of tokens, flattening of maps
    kinds: tuple[str, ...] | None = None  # of sites that are read, such as ("mha",); None: all sites

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be None, {' or '.join(get_args(Pooling))}, got {self.pooling!r}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if self.kinds is not None and not self.kinds:
            raise ValueError("kinds must name at least one kind of site, or be None for all")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(f"lr must be positive and weight_decay not negative, got {self.lr} and {self.weight_decay}")

    def chosen(self, sites: Iterable[str]) -> list[str]:
        """The sites that are read, of those a network has; raises ValueError for a kind that it has not."""
        kinds = {site: split_site(site)[1] for site in sites}
        if missing := sorted(set(self.kinds or ()).difference(kinds.values())):
            raise ValueError(f"this network has no site of kind {missing[0]!r}; there are {', '.join(dict.fromkeys(kinds.values()))}")
        return [site for site, kind in kinds.items() if self.kinds is None or kind in self.kinds]


class Readout(nn.Module):
    """Features of a site to F numbers an input (``pool``), and these to logits by ``linear``, a matrix without bias.

    The F numbers stand channel by channel, so that :func:`snp_lib.performance.group_units` finds the parts of a unit.
    """

    linear: nn.Linear

    def pool(self, features: Tensor, mask: Bool[Tensor, "n t"] | None = None) -> Float[Tensor, "n f"]:
        """The F numbers of each input, from the tokens of ``mask``; features are zero at all others. None: all are there."""
        raise NotImplementedError

    def forward(self, features: Tensor, mask: Bool[Tensor, "n t"] | None = None) -> Float[Tensor, "n k"]:
        """Logits of each input."""
        logits: Tensor = self.linear(self.pool(features, mask))
        return logits


class TokenReadout(Readout):
    """Sequence pooling, then a linear layer without bias: features (N, T, d) to logits (N, num_classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.linear = nn.Linear(width, num_classes, bias=False)
        for layer in (self.score, self.linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def pool(self, features: Float[Tensor, "n t d"], mask: Bool[Tensor, "n t"] | None = None) -> Float[Tensor, "n d"]:
        """Mean of the tokens weighted by the softmax of one learned score each."""
        if torch.compiler.is_compiling():  # sums, which a compiler joins, where products are calls of a library
            weights = masked((features * self.score.weight).sum(2), mask).softmax(dim=1)
            return (features * weights.unsqueeze(2)).sum(1)
        attention = masked(self.score(features), mask).softmax(dim=1)  # (N, T, 1)
        return torch.bmm(attention.transpose(1, 2), features).squeeze(1)


class MeanReadout(Readout):
    """Mean over tokens (N, T, d) or over the places of maps (N, C, h, w), then a linear layer without bias."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes, bias=False)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)

    def pool(
        self, features: Float[Tensor, "n t d"] | Float[Tensor, "n c h w"], mask: Bool[Tensor, "n t"] | None = None
    ) -> Float[Tensor, "n c"]:
        """One number a channel."""
        if mask is not None:
            return features.sum(1) / mask.sum(1, keepdim=True)
        return features.mean(1) if features.ndim == 3 else features.mean((2, 3))


class FlatReadout(Readout):
    """Flatten tokens (N, T, d) or maps (N, C, h, w), then a linear layer without bias, ``width`` features wide."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes, bias=False)

    def pool(
        self, features: Float[Tensor, "n t d"] | Float[Tensor, "n c h w"], mask: Bool[Tensor, "n t"] | None = None
    ) -> Float[Tensor, "n f"]:
        """All features of an input in a row, the T or h·w features of a channel side by side."""
        return (features.transpose(1, 2) if features.ndim == 3 else features).flatten(1)


def make_readout(features: Tensor, num_classes: int, pooling: Pooling | None = None) -> Readout:
    """The readout for features of this shape.

    Args:
        features: tokens (N, T, d) or maps (N, C, h, w); only their shape matters.
        pooling: see :class:`snp_lib.performance.ReadoutRecipe`.

    Raises:
        ValueError: features of another shape.
    """
    if features.ndim not in (3, 4):
        raise ValueError(f"features must be tokens (N, T, d) or maps (N, C, h, w), got shape {tuple(features.shape)}")
    tokens, channels = features.ndim == 3, features.shape[-1 if features.ndim == 3 else 1]
    if pooling == "mean":
        return MeanReadout(channels, num_classes)
    if pooling is None and tokens:
        return TokenReadout(channels, num_classes)
    return FlatReadout(features[0].numel(), num_classes)


def train_readouts(
    model: Network,
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

    The readouts share no parameter, so this equals training each alone on the same batches. So each goes forward and back
    on its own, while its features are still near the processor.

    Args:
        model: trained network; used in eval mode and left unchanged.
        augmentation: the recipe whose augmentation is applied, without mixing: a class mean needs inputs of
            one label; its precision holds for the frozen network and for flattened readouts, which are wider than the
            network; all others are trained in float32.

    Returns:
        Site name to trained readout, in eval mode on the model's device.

    Raises:
        Stopped: ``time.monotonic()`` passed the deadline, or SIGTERM came; readouts start again next time.
        ValueError: no site, an unknown site, or fewer training inputs than one batch.
    """
    if not sites:
        raise ValueError("name at least one site")
    if len(dataset.train) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {len(dataset.train)} training inputs")
    device = next(model.parameters()).device
    model.eval()
    inputs, labels = dataset.train.inputs.to(device), dataset.train.labels.to(device)
    prepared = preparation(augmentation, inputs, dataset.num_classes)
    bfloat16 = uses_bfloat16(augmentation.precision, device)
    with torch.no_grad():
        _, example = model(prepared.plain(inputs[:1]), sites=sites)
    readouts = {}
    for site in sites:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{seed} {site}".encode()))  # initial weights do not depend on the other sites
            readouts[site] = make_readout(example[site], dataset.num_classes, recipe.pooling).to(device)
    learning = Learning(model, readouts, recipe, len(labels) // recipe.batch_size, bfloat16=bfloat16)
    bar = tqdm(total=len(learning.rates), desc="readouts", unit="step", disable=not progress, leave=False)
    ahead = AHEAD if learning.recorded else 1
    with StopRequests() as requests:
        for epoch in range(recipe.epochs):
            generator = torch.Generator(device).manual_seed(epoch_seed(seed, epoch))
            order = shuffled_batches(len(labels), recipe.batch_size, generator)
            for begin in range(0, len(order), ahead):
                chosen = torch.cat(order[begin : begin + ahead])
                augmented = prepared.augmented(inputs[chosen], generator)
                for part, wanted in zip(augmented.split(recipe.batch_size), labels[chosen].split(recipe.batch_size), strict=True):
                    learning.step(part, wanted)
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


class Learning:
    """The readouts of one frozen network and how they learn, a step on one batch after the other, so many in all.

    On a GPU a step of all of them is recorded and replayed.
    """

    def __init__(self, model: Network, readouts: Mapping[str, Readout], recipe: ReadoutRecipe, steps: int, *, bfloat16: bool) -> None:
        self.model, self.readouts, self.bfloat16 = model, readouts, bfloat16
        self.device = next(model.parameters()).device
        self.wide = bfloat16 and recipe.pooling == "flat"  # wider than the network: in its precision
        self.recorded = execution.capturable(self.device)
        total = recipe.epochs * steps
        self.rates = [warmup_cosine(step, total=total, warmup=0, peak=recipe.lr, end=0.0) for step in range(total)]
        self.table = torch.tensor([*self.rates, *[0.0] * (WARM_UP + 1)], device=self.device)
        self.done, self.at = 0, torch.zeros((), dtype=torch.long, device=self.device)
        self.parameters = [p for readout in readouts.values() for p in readout.parameters()]
        rate = torch.tensor(recipe.lr, device=self.device) if self.recorded else recipe.lr
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=recipe.weight_decay, fused=True, capturable=self.recorded)
        tokens = self.recorded and all(isinstance(readout, TokenReadout) for readout in readouts.values())
        self.loss = execution.compiled(_loss) if tokens else _loss
        self.graph: Captured | None = None

    def step(self, inputs: Tensor, labels: Int64[Tensor, " n"]) -> None:
        """One step of every readout on a batch of augmented inputs."""
        if self.recorded:
            if self.graph is None:
                self.graph = execution.Captured(self.compute, (inputs, labels), state=[*self.parameters, self.at], optimizer=self.optimizer)
            self.graph(inputs, labels)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates[self.done]
            self.compute(inputs, labels)
        self.done += 1

    def compute(self, inputs: Tensor, labels: Int64[Tensor, " n"]) -> tuple[Tensor, ...]:
        """The same at the rates that the optimiser has, or that the table has where it is recorded."""
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            _, features = self.model(inputs, sites=list(self.readouts))
            mask = self.model.mask(inputs)
        self.optimizer.zero_grad(set_to_none=True)
        for site, readout in self.readouts.items():
            self.loss(readout, features[site], mask, labels, self.wide).backward()
        if self.recorded:
            for group in self.optimizer.param_groups:
                group["lr"].copy_(self.table.index_select(0, self.at.view(1))[0])
            self.at += 1
        self.optimizer.step()
        return ()


def _loss(
    readout: Readout, features: Tensor, mask: Bool[Tensor, "n t"] | None, labels: Int64[Tensor, " n"], wide: bool
) -> Float[Tensor, ""]:
    with torch.autocast(features.device.type, torch.bfloat16, enabled=wide):
        logits = readout(features if wide else features.float(), mask)
    return F.cross_entropy(logits.float(), labels)
