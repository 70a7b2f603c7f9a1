"""Training: one loop for every network, data set and device."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from snp_lib.data import Dataset
from snp_lib.machine import uses_bfloat16
from snp_lib.training import checkpoint as checkpoints, execution, team
from snp_lib.training.execution import AHEAD, compiled_parts, slots
from snp_lib.training.optim import learning_rate, make_optimizer, set_rate
from snp_lib.training.prediction import accuracy, predict
from snp_lib.training.preparation import preparation
from snp_lib.training.recipe import Recipe
from snp_lib.training.seeds import epoch_seed, shuffled_batches, step_seed
from snp_lib.training.sparsity import Holder, Mask
from snp_lib.training.step import RecordedStep
from snp_lib.training.stopping import Stopped, StopRequests

CHECKPOINT_SECONDS = 60.0

EXPLODED = 10.0  # times the loss of guessing, ln(labels)


class TrainingError(RuntimeError):
    """The loss is not finite or exploded. The message names the step, its seed and the last good checkpoint."""


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    fingerprint: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    deadline: float = math.inf,
    after_epoch: Callable[[int], None] | None = None,
    masks: Mapping[str, Mask] | None = None,
    compiled: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return the history, one row per epoch.

    The order of the inputs in an epoch is a function of (seed, epoch) alone; augmentation and dropout of a step are one
    of (seed, step). So a training that was killed and resumed from ``checkpoint`` ends in the same bits on the same CPU
    and thread count. Started by torchrun, the processes train together (see :mod:`snp_lib.training.team`).

    Args:
        fingerprint: what else identifies the training, besides recipe, seed, data, precision, kind of device, masks and the
            version of torch; a checkpoint of another training is refused.
        checkpoint: file written every ``checkpoint_seconds``, at the end, and before the training stops early;
            resumed from when it exists.
        deadline: value of ``time.monotonic()`` at which to stop.
        after_epoch: called with the number of finished epochs: 0 before the first, then after each one. A resumed
            training calls it for the epochs still to come.
        masks: parameter name to a mask of its shape; weights outside it are zero from the start to the end (see
            ``snp_lib.training.sparsity.Holder``).
        compiled: let ``torch.compile`` make the parts of the network; pays on a GPU, in long trainings.

    Returns:
        Rows with ``epoch`` (from 1), ``lr``, ``train_loss``, ``train_accuracy`` (on the augmented inputs, while
        training; a mixed one counts for its heavier label), ``seconds``, ``images_per_second`` and, where evaluated,
        ``test_accuracy``; accuracies in [0, 1], in the precision of the recipe.

    Raises:
        TrainingError: the loss became NaN or infinite, or exceeded ten times that of guessing; or a weight did.
        Stopped: SIGTERM came or the deadline passed; the checkpoint holds everything up to the last step (up to the
            last epoch for several processes).
        CheckpointError: ``checkpoint`` is damaged or of another training.
        ValueError: fewer training inputs than one batch, a batch that does not divide among the processes, or a mask that
            fits no parameter.
    """
    if len(dataset.train) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} exceeds the {len(dataset.train)} training inputs")
    training = Training(model, dataset, recipe, seed, device, fingerprint, checkpoint, masks)
    resumed = training.resume()
    training.holder.zero_weights()  # after the checkpoint, which may hold other weights
    training.after_epoch = after_epoch if team.rank() == 0 else None
    if not resumed and training.after_epoch is not None:
        training.after_epoch(0)
    step = RecordedStep(training) if training.recorded else functools.partial(training.step, team.wrap(model))
    bar = tqdm(
        total=recipe.epochs * training.steps,
        initial=training.done,
        desc="train",
        unit="step",
        disable=not progress or team.rank() > 0,
        leave=False,
    )
    saved = time.monotonic()
    devices = [device] if device.type == "cuda" else []
    training.compiled = compiled
    faster = compiled_parts(step.twin if isinstance(step, RecordedStep) else model) if compiled else contextlib.nullcontext()
    with StopRequests() as requests, torch.random.fork_rng(devices=devices), contextlib.closing(bar), faster:
        while training.epoch < recipe.epochs:
            model.train()
            started = time.perf_counter() - training.seconds
            for inputs, targets in training.batches():
                step(inputs, targets)
                if whole := training.done % training.steps == 0:
                    training.check()  # before the clock is read: a GPU may still be at work
                training.seconds = time.perf_counter() - started
                bar.update()
                if whole:
                    training.evaluate(row := training.finish_epoch())
                    bar.set_postfix({k: f"{row[k]:.3f}" for k in ("train_loss", "test_accuracy") if k in row})
                    if training.after_epoch is not None:  # before any checkpoint that holds this epoch: no resumed training skips it
                        training.after_epoch(training.epoch)
                elif team.size() > 1:
                    continue  # several processes agree once an epoch
                finished = training.epoch == recipe.epochs
                stop = any(team.gather(requests.pending or time.monotonic() > deadline))
                due = team.decide(time.monotonic() - saved > checkpoint_seconds)
                if finished or stop or due:
                    if not whole:
                        training.check()  # a checkpoint of a training gone wrong would be worth nothing
                    training.save()
                    saved = time.monotonic()
                if stop and (requests.pending or not finished):  # SIGTERM also ends what comes after the last step
                    kept = (
                        f"everything so far is in {checkpoint}; the same command goes on from there"
                        if checkpoint is not None
                        else "nothing is kept"
                    )
                    raise Stopped(requests.reason, f"after {training.epoch} of {recipe.epochs} epochs", kept)
    model.eval()
    return training.history


class Training:
    """Where a training stands, and how it goes one step further."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        fingerprint: str,
        path: Path | None,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.dataset, self.recipe, self.seed, self.device = model, dataset, recipe, seed, device
        self.path = path
        self.recorded = team.size() == 1 and execution.capturable(device)  # steps and their inputs are prepared for that
        self.optimizer = make_optimizer(model, recipe, capturable=self.recorded)
        self.holder = Holder(model, masks or {})
        self.inputs, self.labels = dataset.train.inputs.to(device), dataset.train.labels.to(device)
        self.preparation = preparation(recipe, self.inputs, dataset.num_classes)
        self.bfloat16 = uses_bfloat16(recipe.precision, device)
        self.fingerprint = self._fingerprint(fingerprint, masks or {})
        self.steps = len(self.labels) // recipe.batch_size  # of one epoch
        self.loss_limit = EXPLODED * math.log(max(2, dataset.num_classes))
        self.history: list[dict[str, Any]] = []
        self.done = 0  # steps of the whole training
        self.seconds = 0.0  # spent on the running epoch
        self.loss_and_hits = torch.zeros(2, dtype=torch.float64, device=device)  # of the running epoch, of this process
        self.bad_step = torch.full((), -1, device=device)  # stays on the device: looking at it every step would stall a GPU
        self.after_epoch: Callable[[int], None] | None = None
        self.compiled = False  # whether the parts of the model are, while it trains

    def restart(self, network: nn.Module, masks: Mapping[str, Mask]) -> None:
        """Begin anew with the weights of another network of the same shape; masks as they were given first, or none of a name."""
        self.model.load_state_dict(network.state_dict())
        self.holder.replace(masks)
        self.holder.zero_weights()
        for slot in slots(self.optimizer):
            slot.zero_()
        self.history, self.done, self.seconds = [], 0, 0.0
        self.loss_and_hits.zero_()
        self.bad_step.fill_(-1)

    def _fingerprint(self, given: str, masks: Mapping[str, Mask]) -> str:
        """Of everything that the weights depend on and that a checkpoint could be resumed with by mistake."""
        described = {
            "given": given,
            "recipe": {name: value for name, value in asdict(self.recipe).items() if value is not None},
            "seed": self.seed,
            "data": self.dataset.checksum,
            "bfloat16": self.bfloat16,
            "device": self.device.type,
            "torch": torch.__version__,
            "masks": {name: hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest() for name, mask in masks.items()},
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented inputs and targets of what is left of the running epoch, step by step, the share of this process.

        Where steps are recorded, many batches are augmented at once, always the same ones together.
        """
        first = self.epoch * self.steps
        generator = torch.Generator(self.device).manual_seed(epoch_seed(self.seed, self.epoch))
        order = shuffled_batches(len(self.labels), self.recipe.batch_size, generator)
        ahead = AHEAD if self.recorded else 1
        for begin in range((self.done - first) // ahead * ahead, self.steps, ahead):
            chosen = torch.cat(order[begin : begin + ahead])
            generator = torch.Generator(self.device).manual_seed(step_seed(self.seed, first + begin))  # of all that are augmented together
            inputs, targets = self.preparation.mixed(self.inputs[chosen], self.labels[chosen], generator)
            if self.recorded and self.bfloat16 and inputs.is_floating_point():
                inputs = inputs.bfloat16()
            pairs = zip(inputs.split(self.recipe.batch_size), targets.split(self.recipe.batch_size), strict=True)
            for step, (part, wanted) in enumerate(pairs, start=first + begin):
                if step >= self.done:
                    yield team.share(part), team.share(wanted)

    def step(self, network: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> None:
        """One step of the optimiser; nothing here waits for the device.

        Args:
            network: from ``inputs`` to logits: the model, or the part of it behind what was computed before.
            targets: labels (N,), or shares of labels (N, K) where inputs are mixed.
        """
        set_rate(self.optimizer, learning_rate(self.recipe, self.done, self.steps))
        torch.manual_seed((step_seed(self.seed, self.done) + team.rank()) % 2**63)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = network(inputs)
            loss = self.loss(logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update()
        self.tally(loss.detach(), logits.detach(), targets, self.done)
        self.done += 1

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy; mixing has smoothed the labels already."""
        return F.cross_entropy(logits, targets, label_smoothing=0.0 if self.recipe.mixes else self.recipe.label_smoothing)

    def update(self) -> None:
        """The optimiser's step along the gradients, with masks and clipping."""
        self.holder.zero_gradients()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.holder.zero_weights()

    def tally(self, loss: Tensor, logits: Tensor, targets: Tensor, step: int | Tensor) -> None:
        """Add a step to the sums of its epoch, and note the first one whose loss went wrong."""
        labels = targets.argmax(1) if self.recipe.mixes else targets
        self.loss_and_hits += torch.stack([loss.double(), (logits.argmax(1) == labels).sum().double()])
        self.bad_step.copy_(torch.where((self.bad_step < 0) & ~(loss <= self.loss_limit), step, self.bad_step))

    def check(self) -> None:
        """Wait for the device; raise TrainingError if a step since the last check went wrong."""
        step = max(team.gather(int(self.bad_step)))
        if step >= 0:
            written = self.path is not None and checkpoints.exists(self.path)
            raise TrainingError(
                f"the loss became not finite or exceeded {self.loss_limit:.0f} in epoch {step // self.steps + 1}, "
                f"step {step % self.steps + 1} of {self.steps} (seed {self.seed}, batch seed {step_seed(self.seed, step)}, "
                f"lr {learning_rate(self.recipe, step, self.steps):.3g}). "
                + (f"Last good checkpoint: {self.path}. " if written else "")
                + "A smaller learning rate or a longer warm-up usually cures it."
            )
        if not bool(torch.stack([p.detach().isfinite().all() for p in self.model.parameters()]).all()):
            raise TrainingError(
                f"a weight is no longer finite after step {self.done} (seed {self.seed}). A smaller learning rate usually cures it."
            )

    def finish_epoch(self) -> dict[str, Any]:
        """Add the epoch to the history, without evaluating; returns its row."""
        loss, hits = team.total(self.loss_and_hits).tolist()
        seen = self.steps * self.recipe.batch_size
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "lr": learning_rate(self.recipe, self.done - 1, self.steps),
                "train_loss": loss / self.steps / team.size(),
                "train_accuracy": hits / seen,
                "seconds": self.seconds,
                "images_per_second": seen / self.seconds if self.seconds else None,
            }
        )
        self.loss_and_hits.zero_()
        self.seconds = 0.0
        return self.history[-1]

    def evaluate(self, row: dict[str, Any]) -> None:
        """Add the accuracy on the test split to the row of an epoch, where the recipe asks for it."""
        if row["epoch"] % self.recipe.eval_every == 0 or row["epoch"] == self.recipe.epochs:
            # compiling for one pass would not pay
            with torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext():
                logits = predict(self.model, self.dataset.test, self.preparation.plain, bfloat16=self.bfloat16)
            row["test_accuracy"] = accuracy(logits, self.dataset.test.labels)
            self.model.train()

    def resume(self) -> bool:
        """Go to where the checkpoint stands; False when there is none."""
        if self.path is None or not checkpoints.exists(self.path):
            return False
        state = checkpoints.load(self.path, self.model, self.optimizer, fingerprint=self.fingerprint)
        self.history, self.done, self.seconds = state["history"], state["steps"], state["seconds"]
        # what one process saved, each of several takes its share of
        self.loss_and_hits.copy_(torch.tensor(state["loss_and_hits"], dtype=torch.float64))
        self.loss_and_hits[1] /= team.size()
        return True

    def save(self) -> None:
        """Write the checkpoint; a full disk is a warning, since the next attempt may succeed and nothing is lost yet."""
        if self.path is None or team.rank() > 0:
            return
        state = {"history": self.history, "steps": self.done, "seconds": self.seconds, "loss_and_hits": self.loss_and_hits.tolist()}
        try:
            checkpoints.save(self.path, self.model, self.optimizer, fingerprint=self.fingerprint, state=state)
        except OSError as error:
            kept = "the one before is whole" if checkpoints.exists(self.path) else "there is none before it"
            warnings.warn(f"cannot write the checkpoint {self.path} ({error}); {kept}, and the training goes on", stacklevel=2)
