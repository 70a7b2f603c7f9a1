"""Fine-tuning of many pruned copies of one network at once: what lies before them is computed once for all."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import cast

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.data import Dataset, Split
from snp_lib.models.sites import Network, depth_of, evaluating
from snp_lib.pruning.masks import Masks, apply_masks
from snp_lib.training import execution
from snp_lib.training.execution import compiled_parts, lowered
from snp_lib.training.loop import Training
from snp_lib.training.recipe import Recipe
from snp_lib.training.step import RecordedStep
from snp_lib.training.stopping import Stopped, StopRequests


def prune(model: Network, masks: Masks) -> Network:
    """A copy of the network whose weights outside the masks are zero; errors as for :func:`snp_lib.pruning.masks.apply_masks`."""
    network = copy.deepcopy(model)
    apply_masks(network, masks)
    return network


def finetune(
    model: Network,
    networks: Mapping[str, Network],
    masks: Mapping[str, Masks],
    dataset: Dataset,
    recipe: Recipe,
    *,
    encoder: int,
    seed: int,
    moving: bool = False,
    deadline: float = math.inf,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Train pruned networks in place, each under its own masks, from one encoder on; returns their losses by epoch.

    What lies before that encoder is the same for all, frozen and in eval mode, and on a CPU is computed once a step for all. Otherwise
    each network is trained as :func:`snp_lib.training.train` would with these masks and the part before frozen: same
    order of the inputs, same augmentation, same seeds of dropout. The optimisers start afresh. Parameters of the networks that
    require no gradient stay as they are too.

    Args:
        model: the network that all share before the encoder; left unchanged.
        networks: by name; their weights before the encoder must be those of ``model``.
        masks: by the same names; weights outside are zero from the start to the end.
        encoder: the first that is trained, counted from 1; 1 leaves only the tokeniser frozen.
        moving: the frozen part runs in training mode, so that its batch normalisation sees batches and its statistics move, as in
            the released code of paper C; afterwards each network has them.

    Raises:
        ValueError: names that differ, a network that is another one before the encoder, masks that do not fit or reach
            before the encoder, or no such encoder.
        TrainingError: as for ``train``.
        Stopped: the deadline passed or SIGTERM came; nothing is kept.
    """
    if networks.keys() != masks.keys():
        raise ValueError(f"networks and masks must have the same names, got {sorted(networks)} and {sorted(masks)}")
    if not 1 <= encoder <= (depth := depth_of(model.sites)):
        raise ValueError(f"no encoder {encoder} to train from: this model has encoders 1 to {depth}")
    shared = model.parameters_before(encoder)
    for name, network in networks.items():
        if not all(torch.equal(network.get_parameter(key), value) for key, value in shared.items()):
            raise ValueError(f"{name} is another network before encoder {encoder}")
        if reaching := [key for key in masks[name] if key in shared]:
            raise ValueError(f"the masks of {name} reach before encoder {encoder}: {reaching[0]}")
    device = next(model.parameters()).device
    if moving:
        model = copy.deepcopy(model)
    if execution.capturable(device) and not moving:
        return _one_by_one(model, networks, masks, dataset, recipe, encoder, seed, deadline, progress)
    trainings: dict[str, Training] = {}
    for name, network in networks.items():
        trainings[name] = Training(network, dataset, recipe, seed, device, name, None, masks[name])
        trainings[name].holder.zero_weights()
        network.train()  # weights before the encoder get no gradient, so the optimiser leaves them alone
    if not trainings:
        return {}
    first = next(iter(trainings.values()))  # all see the same inputs in the same order
    bar = tqdm(total=recipe.epochs * first.steps, desc="fine-tuning", unit="step", disable=not progress, leave=False)
    with StopRequests() as requests, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), evaluating(model), bar:
        model.train(moving)
        for _ in range(recipe.epochs):
            for inputs, targets in first.batches():
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=first.bfloat16):
                    hidden = model.before(inputs, encoder)
                for name, training in trainings.items():
                    training.step(functools.partial(networks[name].behind, block=encoder), hidden, targets)
                bar.update()
                if requests.pending or time.monotonic() > deadline:
                    raise Stopped(requests.reason, "while pruned networks were fine-tuned", "they start again next time")
            for training in trainings.values():
                training.check()
                training.finish_epoch()
    for network in networks.values():
        if moving:
            network.load_state_dict(model.state_before(encoder), strict=False)
        network.eval()
    return {name: [row["train_loss"] for row in training.history] for name, training in trainings.items()}


def _one_by_one(
    model: Network,
    networks: Mapping[str, Network],
    masks: Mapping[str, Masks],
    dataset: Dataset,
    recipe: Recipe,
    encoder: int,
    seed: int,
    deadline: float,
    progress: bool,
) -> dict[str, list[float]]:
    """The same on a GPU, where one recorded step is worth more than what they share: network after network in its place."""
    device, losses = next(model.parameters()).device, {}
    held = {name: torch.ones_like(mask) for each in masks.values() for name, mask in each.items()}
    training = Training(copy.deepcopy(model), dataset, recipe, seed, device, "", None, held)
    for parameter, like in zip(training.model.parameters(), next(iter(networks.values()), model).parameters(), strict=True):
        parameter.requires_grad_(like.requires_grad)
    front = lowered(model) if training.bfloat16 else model

    def logits(network: nn.Module, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = front.before(inputs, encoder)
        return cast(Network, network).behind(hidden, encoder)

    bar = tqdm(total=recipe.epochs * training.steps * len(networks), desc="fine-tuning", unit="step", disable=not progress, leave=False)
    with (
        StopRequests() as requests,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        evaluating(model),
        evaluating(front),
        bar,
    ):
        step = RecordedStep(training, logits)
        with compiled_parts(step.twin, front):
            for name, network in networks.items():
                training.restart(network, masks[name])
                step.begin()
                for _ in range(recipe.epochs):
                    for inputs, targets in training.batches():
                        step(inputs, targets)
                        bar.update()
                        if requests.pending or time.monotonic() > deadline:
                            raise Stopped(requests.reason, "while pruned networks were fine-tuned", "they start again next time")
                    training.check()
                    training.finish_epoch()
                network.load_state_dict(training.model.state_dict())
                network.eval()
                losses[name] = [row["train_loss"] for row in training.history]
    return losses


@torch.no_grad()
def shared_logits(
    model: Network,
    networks: Mapping[str, Network],
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    *,
    encoder: int,
    batch_size: int = 256,
    bfloat16: bool = False,
    progress: bool = False,
) -> dict[str, Float32[Tensor, "n k"]]:
    """Logits of every network on every input, in order, in eval mode, on the CPU; what lies before the encoder runs once.

    Args:
        model, encoder: as for :func:`finetune`.
    """
    device = next(model.parameters()).device
    for network in networks.values():
        network.eval()
    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    steps = -(-len(split) // batch_size)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for inputs, _ in tqdm(
            split.batches(batch_size), total=steps, desc="pruned networks", unit="step", disable=not progress, leave=False
        ):
            hidden = model.before(prepare(inputs.to(device)), encoder)
            for name, network in networks.items():
                found[name].append(network.behind(hidden, encoder).float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}
