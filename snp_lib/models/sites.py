"""What every network says of itself: the sites where its features are read, the layers that can be pruned, where it can be cut.

A site is named by its block and kind: ``block3.ff`` is of encoder 3 and of the kind ff.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

UnitKind = Literal["attention", "feed-forward", "convolution"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer or a convolution that can be pruned, between two sites whose units are its inputs and its outputs.

    Attributes:
        inputs: site of the input units, nodes or filters.
        outputs: site of the output units; None: the output labels.
        block: number of the block that it belongs to, from 1; None: behind all blocks.
        places: how often the layer is applied to one input, such as its tokens or the pixels of its map.
        activation: what stands between its output and the site ``outputs``; None: nothing.
        parts: weights from one input unit to one output, such as the nine of a 3×3 kernel.
    """

    inputs: str
    outputs: str | None
    block: int | None
    places: int
    activation: Callable[[Tensor], Tensor] | None = None
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class HeadAxis:
    """How a parameter is divided among the attention heads of a block.

    Attributes:
        block: number of the block, from 1.
        heads: H.
        axis: of the parameter; it holds ``parts`` equal pieces, each the shares of the H heads side by side.
        parts: names of the pieces, such as query, key and value.
    """

    block: int
    heads: int
    axis: int
    parts: tuple[str, ...]


def unchanged(hidden: Tensor) -> Tensor:
    """What is given."""
    return hidden


@dataclass(frozen=True, kw_only=True)
class ResidualUnit:
    """One addition to the stream of a network, ``after(skip(hidden) + branch(hidden))`` of what the unit reads.

    Attributes:
        block: number of the block that it belongs to, from 1.
        kind: what the branch is, ``attention``, ``feed-forward`` or ``convolution``.
        branch: from what the unit reads to what it adds.
        skip: from what the unit reads to what it adds to, such as a normalisation or a convolution that changes shapes.
        after: what follows the sum, such as a ReLU.
    """

    block: int
    kind: UnitKind
    branch: Callable[[Tensor], Tensor]
    skip: Callable[[Tensor], Tensor] = field(default_factory=lambda: unchanged)  # a default itself would be documented twice
    after: Callable[[Tensor], Tensor] = field(default_factory=lambda: unchanged)

    @property
    def name(self) -> str:
        """Block and kind, such as ``block3.attention``."""
        return f"block{self.block}.{self.kind}"

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.after(self.skip(hidden) + self.branch(hidden))


class Network(nn.Module):
    """A network as everything here expects it: inputs to logits (N, num_classes), and on request the features at named sites.

    ``model(x, sites=[…])`` returns ``(logits, features)``, a dictionary from site name to tokens (N, T, width) or maps
    (N, C, h, w). A subclass gives ``config``, ``sites``, ``compute`` and ``example``. One whose blocks can be told apart also gives
    ``before``, ``behind`` and ``parameters_before``; one with linear layers between sites, ``layers``; one whose heads can be switched
    off, ``attention`` and ``after_attention``; one that says what its heads attend to, ``attention_weights`` and ``grid``; one that
    adds to a stream, ``residual_units``.
    """

    config: Any

    @property
    def sites(self) -> dict[str, int]:
        """Site name to its number of channels, in the order of the forward pass."""
        raise NotImplementedError

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers that can be pruned, by the name of their weight; none where no rule is defined."""
        return {}

    @property
    def matrices(self) -> dict[str, int]:
        """Name → number of parts, for the weights of its blocks that an optimiser may treat as matrices; none where no rule is defined.

        Parts are equal blocks of rows, 3 for queries, keys and values in one.
        """
        return {}

    @property
    def head_axes(self) -> dict[str, HeadAxis]:
        """The parameters that belong to single attention heads, by name; none where no head can be told apart."""
        return {}

    @property
    def residual_units(self) -> list[ResidualUnit]:
        """The additions to its stream, first to last; none where no rule is defined.

        From ``before(x, 1)`` they lead, one after the other, to what ``behind`` the last block makes the logits of.
        """
        return []

    @property
    def parts(self) -> list[tuple[nn.Module, str]]:
        """Modules and the names of their methods that a compiler may take each on its own; by default the whole forward pass."""
        return [(self, "forward")]

    def mask(self, x: Tensor) -> Tensor | None:
        """Which tokens (N, T) of the inputs are there, where some are padding; None: all. Features of the others are zero."""
        return None

    def compute(self, x: Tensor, wanted: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the features at these sites."""
        raise NotImplementedError

    def example(self, batch: int) -> Tensor:
        """Random inputs of the right shape and type, as many as asked for, the same at every call."""
        raise NotImplementedError

    def before(self, x: Tensor, block: int) -> Tensor:
        """Inputs to what a block reads, counted from 1."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut in front of a block")

    def behind(self, hidden: Tensor, block: int) -> Tensor:
        """What a block reads to logits; ``behind(before(x, b), b)`` is ``forward(x)`` for every b, and for one more than there are."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut in front of a block")

    def parameters_before(self, block: int) -> dict[str, Tensor]:
        """The parameters that ``before`` needs, by name."""
        raise NotImplementedError(f"{type(self).__name__} cannot be cut in front of a block")

    def state_before(self, block: int) -> dict[str, Tensor]:
        """The same with the buffers of the same modules, such as the statistics of batch normalisation."""
        parameters = self.parameters_before(block)
        modules = {name.rpartition(".")[0] for name in parameters}
        return parameters | {name: buffer for name, buffer in self.named_buffers() if name.rpartition(".")[0] in modules}

    def attention(self, hidden: Tensor, block: int) -> Tensor:
        """What a block reads to the outputs of its heads side by side, its ``mha`` site."""
        raise NotImplementedError(f"{type(self).__name__} has no heads that could be switched off")

    def attention_weights(self, hidden: Tensor, block: int) -> Tensor:
        """What a block reads to the attention weights (N, H, T, T) of its heads: row q says what query q takes of every token."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its heads attend to")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens, which stand row by row."""
        raise NotImplementedError(f"the tokens of {type(self).__name__} stand on no grid")

    def after_attention(self, hidden: Tensor, mha: Tensor, block: int) -> Tensor:
        """The rest of a block, from what it reads and its head outputs, which may have been changed."""
        raise NotImplementedError(f"{type(self).__name__} has no heads that could be switched off")

    @overload
    def forward(self, x: Tensor, sites: None = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, sites: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def forward(self, x: Tensor, sites: Sequence[str] | None = None) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        logits, features = self.compute(x, chosen_sites(sites, self.sites))
        return logits if sites is None else (logits, features)


class ImageNetwork(Network):
    """A network whose inputs are square images (N, C, S, S), their size and channels as its configuration says."""

    def example(self, batch: int) -> Tensor:
        return torch.rand(batch, *self.image_shape, generator=torch.Generator().manual_seed(0))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.config.in_channels, self.config.image_size, self.config.image_size

    def check(self, x: Tensor) -> None:
        """Raise ValueError for images of another size."""
        if x.shape[-2:] != self.image_shape[1:]:
            raise ValueError(f"expected images of {self.config.image_size} pixels, got shape {tuple(x.shape)}")


@dataclass(frozen=True, kw_only=True)
class Family:
    """The networks of one file: how their names look, and what builds them.

    Attributes:
        pattern: of a name; its groups are the numbers in it.
        parts: the fields of the configuration that those numbers give.
        config: the dataclass of a shape.
        network: from a configuration to the network.
        hint: an example of a name, and what the numbers mean.
        defaults: further fields that follow from those of the name.
    """

    pattern: re.Pattern[str]
    parts: tuple[str, ...]
    config: type[Any]
    network: Callable[[Any], Network]
    hint: str
    defaults: Callable[[Mapping[str, int]], Mapping[str, Any]] = lambda given: {}


def require_positive(config: object, *names: str) -> None:
    """Raise ValueError unless these fields of a configuration are positive integers."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def require_shares(config: object, *names: str) -> None:
    """Raise ValueError unless these fields of a configuration lie in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)!r}")


def split_site(site: str) -> tuple[int, str]:
    """``block3.ff`` to ``(3, "ff")``, ``block3`` to ``(3, "block")`` and ``stem``, what the first block reads, to ``(0, "block")``."""
    if site == "stem":
        return 0, "block"
    block, _, kind = site.removeprefix("block").partition(".")
    return int(block), kind or "block"


def depth_of(sites: Iterable[str]) -> int:
    """Number of the last block that has a site."""
    return max(split_site(site)[0] for site in sites)


def chosen_sites(sites: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The sites asked for, in the order of the forward pass; raises ValueError for an unknown one."""
    wanted, available = set(sites or ()), list(known)
    if unknown := sorted(wanted.difference(available)):
        raise ValueError(f"unknown site {unknown[0]!r}; this model has {', '.join(available)}")
    return [site for site in available if site in wanted]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules is back in its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
