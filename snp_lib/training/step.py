"""A whole step of a training as one launch on a GPU: forward and backward in bfloat16, masks, clipping and optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from snp_lib.training import execution
from snp_lib.training.execution import WARM_UP, Captured, fast_attention, lowered, refresh
from snp_lib.training.optim import learning_rate, set_rate
from snp_lib.training.seeds import step_seed

if TYPE_CHECKING:
    from snp_lib.training.loop import Training


class RecordedStep:
    """The steps of a training, each on inputs and targets of the same shapes; the first one records, all later ones replay.

    The rate of every step stands in a table on the device and which step it is in a counter beside it, so that nothing waits
    for the device. Where the products run in bfloat16, they do so with copies of the weights, which are made once a step.

    Args:
        training: stands where it begins; its model is updated in place.
        network: how the logits come from the inputs, given the model whose weights it reads; default: the model itself.
        capture: whether to record; else every step is launched kernel by kernel.
    """

    def __init__(
        self,
        training: Training,
        network: Callable[[torch.nn.Module, Tensor], Tensor] = lambda model, inputs: model(inputs),
        *,
        capture: bool = True,
    ) -> None:
        self.training, self.network, self.capture = training, network, capture
        self.twin = lowered(training.model) if training.bfloat16 else training.model
        self.twin.train()
        total = training.recipe.epochs * training.steps + WARM_UP + 1
        rates = [learning_rate(training.recipe, step, training.steps) for step in range(total)]
        self.rates = torch.tensor(rates, device=training.device, dtype=torch.float32)
        self.gradients = [torch.zeros_like(parameter) for parameter in training.model.parameters() if parameter.requires_grad]
        self.at = torch.zeros((), dtype=torch.long, device=training.device)
        self.begin()
        self.graph: Captured | None = None

    def begin(self) -> None:
        """Take up what the model and the training hold now, which may be another network of the same shape."""
        refresh(self.twin, self.training.model)
        self.at.fill_(self.training.done)

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        """One step; inputs as the network reads them, in its own precision."""
        training = self.training
        torch.manual_seed(step_seed(training.seed, training.done))
        if not self.capture:
            self.compute(inputs, targets)
        else:
            if self.graph is None:
                changed = [*training.model.state_dict().values(), training.loss_and_hits, training.bad_step, self.at]
                self.graph = execution.Captured(self.compute, (inputs, targets), state=changed, optimizer=training.optimizer)
                refresh(self.twin, training.model)
                torch.manual_seed(step_seed(training.seed, training.done))
            self.graph(inputs, targets)
        training.done += 1

    def compute(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """The same without a look at the host."""
        training = self.training
        with torch.autocast(training.device.type, torch.bfloat16, enabled=training.bfloat16), fast_attention():
            logits = self.network(self.twin, inputs)
            loss = training.loss(logits, targets)
        learning = [p for p in self.twin.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, learning, allow_unused=True)  # those of a part that is not run are none
        found = [(full, gradient) for full, gradient in zip(self.gradients, gradients, strict=True) if gradient is not None]
        torch._foreach_copy_([full for full, _ in found], [gradient for _, gradient in found])
        parameters = [p for p in training.model.parameters() if p.requires_grad]
        for parameter, full, gradient in zip(parameters, self.gradients, gradients, strict=True):
            parameter.grad = None if gradient is None else full
        set_rate(training.optimizer, self.rates.index_select(0, self.at.view(1))[0])
        training.update()
        refresh(self.twin, training.model)
        training.tally(loss.detach(), logits.detach(), targets, self.at)
        self.at += 1
        return ()
