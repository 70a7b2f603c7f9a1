"""Anybody's network, read by hooks on its modules: what :func:`snp_lib.inspect` measures (defined here)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snp_lib.models.sites import Network, evaluating

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

ACTIVATIONS = ("relu", "gelu", "silu", "swish", "mish", "elu")  # in the names of their classes, of whichever library

Tokens = Float[Tensor, "n t d"]
Maps = Float[Tensor, "n c h w"]


@dataclass(frozen=True)
class Reading:
    """A module that can be read: its width in channels, what it is, and whether the channels of its maps come last."""

    width: int
    kind: str  # block, attention or hidden
    channels_last: bool


class Hooked(Network):
    """A network of another library, its sites named as its modules are.

    ``model(x, sites=[…])`` returns ``(logits, features)`` as every network here does: tokens (N, T, width) or maps (N, C, h, w) as the
    modules return them, the first tensor of a tuple or of a mapping. Numbers (N, width) of an image without tokens are one token.
    Maps whose channels come last, as those of a Swin transformer, are turned.

    Args:
        model: inputs to logits (N, K), or to a mapping with an entry or an object with an attribute ``logits``.
        sites: names of modules, in any order; None chooses, see :func:`readable`.
        example: inputs as the model takes them, on its device; it is run once.

    Raises:
        ValueError: no module of that name, one that does not run or runs several times, or features of another shape;
            nothing to read.
    """

    config = None

    def __init__(self, model: nn.Module, sites: Sequence[str] | None, example: Tensor) -> None:
        super().__init__()
        self.model = model
        known = dict(model.named_modules())
        if unknown := [name for name in sites or () if name not in known or not name]:
            raise ValueError(f"this network has no module {unknown[0]!r}; print(model) shows what there is")
        seen = _outputs(model, list(sites) if sites is not None else [name for name in known if name], example)
        self.readings = _chosen(model, seen) if sites is None else {name: _described(model, name, *seen[name]) for name in seen}
        if missing := [name for name in sites or () if name not in seen]:
            raise ValueError(f"the module {missing[0]!r} does not run in a forward pass, so it has no features")
        if not self.readings:
            raise ValueError("no module returns tokens (N, T, width) or maps (N, C, h, w); name the modules in sites")

    @property
    def sites(self) -> dict[str, int]:
        return {name: reading.width for name, reading in self.readings.items()}

    @property
    def kinds(self) -> dict[str, str]:
        """What the module of each site is, by its name; ``block``, ``attention`` or ``hidden``, an activation within a block of tokens."""
        return {name: reading.kind for name, reading in self.readings.items()}

    def compute(self, x: Tensor, wanted: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        outputs: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> None:
            outputs[name] = _features(output, self.readings[name].channels_last)

        with _hooks(self.model, wanted, keep):
            logits = _logits(self.model(x))
        return logits, outputs


def readable(model: nn.Module, example: Tensor) -> dict[str, Reading]:
    """The modules that are read where none are named, in the order of the forward pass.

    A block is a module of several layers whose class occurs more than once, and that lies in no other block; a stage, a module that
    holds a row of blocks of one class, is none. Every block is read; within blocks of tokens also the outermost modules with
    ``Attention`` in the name of their class, and the activations. A network without blocks, such as VGG, is read at its
    activations. Modules that run several times are left out.
    """
    return _chosen(model, _outputs(model, [name for name, _ in model.named_modules() if name], example))


def _chosen(model: nn.Module, seen: Mapping[str, tuple[Tensor | None, int]]) -> dict[str, Reading]:
    modules = dict(model.named_modules())
    whole = {name: module for name, module in modules.items() if name and not isinstance(module, CONTAINERS) and _layers(module) > 1}
    often = Counter(type(module) for module in whole.values())
    blocks = _outermost([name for name, module in whole.items() if often[type(module)] > 1 and not _is_stage(module)])
    kinds = {name: "attention" if _attends(modules[name]) else "block" for name in blocks}
    of_tokens = [name for name in blocks if name in seen and (output := seen[name][0]) is not None and output.ndim == 3]
    inner = {block: [name for name in modules if name.startswith(f"{block}.")] for block in of_tokens}
    for names in inner.values():
        kinds |= dict.fromkeys(_outermost([name for name in names if _attends(modules[name])]), "attention")
        kinds |= {name: "hidden" for name in names if _activates(modules[name])}
    if not blocks:
        kinds = {name: "hidden" for name, module in modules.items() if _activates(module)}
    chosen = {}
    for name, (output, times) in seen.items():
        if name in kinds and output is not None and output.ndim in (3, 4) and times == 1:
            chosen[name] = _described(model, name, output, times, kinds[name])
    return chosen


def _described(model: nn.Module, name: str, output: Tensor | None, times: int, kind: str = "block") -> Reading:
    if times > 1:
        raise ValueError(f"the module {name!r} runs {times} times in a forward pass: which of its outputs would be read?")
    if output is None or output.ndim not in (2, 3, 4):
        shape = "no tensor" if output is None else f"shape {tuple(output.shape)}"
        raise ValueError(f"the module {name!r} returns {shape}; readable are tokens (N, T, width) and maps (N, C, h, w)")
    norms = {norm.normalized_shape[0] for norm in model.modules() if isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) == 1}
    last = output.ndim == 4 and output.shape[3] in norms and output.shape[1] not in norms  # what is normalised are channels
    return Reading(int(output.shape[3 if last else 1 if output.ndim == 4 else -1]), kind, last)


def _outputs(model: nn.Module, names: Sequence[str], example: Tensor) -> dict[str, tuple[Tensor | None, int]]:
    """What modules return for an example, in the order of the forward pass, and how often each ran."""
    outputs: dict[str, tuple[Tensor | None, int]] = {}

    def keep(name: str, output: Any) -> None:
        _, times = outputs.pop(name, (None, 0))
        outputs[name] = (_first(output), times + 1)

    with torch.no_grad(), evaluating(model), _hooks(model, names, keep):
        model(example)
    return outputs


@contextmanager
def _hooks(model: nn.Module, names: Sequence[str], keep: Callable[[str, Any], None]) -> Iterator[None]:
    """Tell what each of these modules returns while the context lasts."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: keep(name, output)) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _outermost(names: Sequence[str]) -> list[str]:
    """Those that lie in no other of them."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _is_stage(module: nn.Module) -> bool:
    """Whether it holds a row of modules of one class with several layers each."""
    rows = [list(row.children()) for row in module.modules() if isinstance(row, CONTAINERS)]
    return any(len(row) > 1 and len({type(each) for each in row}) == 1 and _layers(row[0]) > 1 for row in rows)


def _layers(module: nn.Module) -> int:
    """Weights of products in it."""
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _attends(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _activates(module: nn.Module) -> bool:
    return not any(module.children()) and any(part in type(module).__name__.lower() for part in ACTIVATIONS)


def _first(output: Any) -> Tensor | None:
    """The first floating-point tensor of a tensor, tuple, list or mapping."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((tensor for part in parts if (tensor := _first(part)) is not None), None)


def _features(output: Any, channels_last: bool) -> Tensor:
    features = _first(output)
    assert features is not None  # it was there for the example
    if features.ndim == 2:
        return features.unsqueeze(1)
    return features.movedim(3, 1) if channels_last else features


def _logits(output: Any) -> Tensor:
    logits = output["logits"] if isinstance(output, Mapping) and "logits" in output else getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError(f"the network must return logits (N, K), or something with them under logits; it returned {type(output).__name__}")
    return logits
