"""A run opened for measuring, and what every measurement kept with a run has in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from snp_lib import data
from snp_lib.data import Dataset, Split
from snp_lib.machine import choose_device, data_dir, measuring_batch, uses_bfloat16
from snp_lib.models import Network
from snp_lib.store import Run, StoreError, derived
from snp_lib.store.derived import Arrays
from snp_lib.training.preparation import Preparation, preparation


@dataclass(frozen=True)
class Setting:
    """A run with its data set, its network on the device and the preparation of inputs, each opened once, on first use.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: show progress bars.
        data_root: see :func:`snp_lib.data.load`.
    """

    run: Run
    device: str = "auto"
    progress: bool = True
    data_root: str | Path | None = None

    @functools.cached_property
    def torch_device(self) -> torch.device:
        """The device of the network and of every batch."""
        return choose_device(self.device)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set of the run's experiment."""
        experiment = self.run.experiment
        root = Path(self.data_root or data_dir()).expanduser()
        return _opened(experiment.dataset, root, experiment.dataset_size, self.progress)

    @functools.cached_property
    def network(self) -> Network:
        """The trained network on the device, in eval mode; raises StoreError where the weights are not here."""
        return self.network_at(None)

    def network_at(self, epoch: int | None) -> Network:
        """The same after so many epochs; None: at the end."""
        return self.run.network(epoch).to(self.torch_device)

    @functools.cached_property
    def _preparation(self) -> Preparation:
        inputs = self.dataset.train.inputs.to(self.torch_device)
        return preparation(self.run.experiment.recipe, inputs, self.dataset.num_classes)

    @property
    def prepare(self) -> Callable[[Tensor], Tensor]:
        """From inputs on the device to what the network reads when it is tested."""
        return self._preparation.plain

    def learned_from(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """So many training inputs as the network reads them while it learns, and their labels or the shares of them.

        Which they are, their augmentation and their mixing are drawn by the seed; equal seeds give equal tensors on one device.
        """
        chosen = drawn(self.dataset.train, count, seed)
        generator = torch.Generator(self.torch_device).manual_seed(seed)
        return self._preparation.mixed(chosen.inputs.to(self.torch_device), chosen.labels.to(self.torch_device), generator)

    @property
    def passes(self) -> dict[str, Any]:
        """Options of a pass over a split, its inputs at a time and whether products run in bfloat16 on a GPU."""
        return {"batch_size": measuring_batch(self.torch_device), "bfloat16": self.bfloat16}

    @property
    def bfloat16(self) -> bool:
        """Whether matrix products run in bfloat16, as in the training."""
        return uses_bfloat16(self.run.experiment.recipe.precision, self.torch_device)


@functools.lru_cache(maxsize=1)
def _opened(name: str, root: Path, size: int | None, progress: bool) -> Dataset:
    """The data set last used, which the next measurement needs most likely."""
    return data.load(name, root, size=size, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One thing measured of a run and kept with it; the fields of a subclass are its options.

    A subclass gives ``name``, ``options`` and ``compute``. Tables only :meth:`read`; what computes says :meth:`make`.
    """

    @property
    def what(self) -> str | None:
        """The entry of ``snp_lib.results.MEASUREMENTS`` that makes it, or None where none does."""
        raise NotImplementedError

    def on(self, device: str) -> Measurement:
        """The same where it depends on no device; else on this one, unless it names its own."""
        return self

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        """The moments of the training whose weights it needs; None is the end."""
        return (None,)

    def kept(self, run: Run) -> bool:
        """Whether it is there already; raises StoreError where it is damaged."""
        return derived.find(run, self.name(run), self.options(run)) is not None

    def name(self, run: Run) -> str:
        """Plain file name of the measurement, such as ``stage-004``."""
        raise NotImplementedError

    def options(self, run: Run) -> dict[str, Any]:
        """Whatever the result depends on besides the run, as JSON values."""
        raise NotImplementedError

    def compute(self, setting: Setting) -> Arrays:
        """The arrays, computed now."""
        raise NotImplementedError

    def make(
        self, run: Run, *, device: str = "auto", refresh: bool = False, progress: bool = True, data_root: str | Path | None = None
    ) -> Arrays:
        """The arrays from where they are kept, else computed now and kept.

        Args:
            device, progress, data_root: see :class:`Setting`.
            refresh: compute anew even where they are kept.

        Raises:
            StoreError: what is kept is damaged, or the weights of the run are not here.
            ValueError: options that the run cannot have.
        """
        chosen = self.on(device)
        compute = functools.partial(chosen.compute, Setting(run, device, progress, data_root))
        return derived.derived(run, chosen.name(run), chosen.options(run), compute, refresh=refresh)

    def read(self, run: Run) -> Arrays:
        """The arrays from where they are kept; raises StoreError, saying what to run, where nobody made them."""
        arrays = derived.find(run, self.name(run), self.options(run))
        if arrays is None:
            raise StoreError(
                f"{run.experiment.id} has no measurement {self.name(run)} with these options. Make it with "
                + (f"`{run.experiment.command('measure')} --what {self.what}`, or " if self.what else "")
                + f"in Python with {type(self).__name__}(…).make(run)."
            )
        return arrays


@dataclass(frozen=True, kw_only=True)
class AtEpoch(Measurement):
    """A measurement of the network at one moment of its training, named after it.

    Attributes:
        epoch: finished epochs, 0 for the untrained network; None: the end.
    """

    epoch: int | None = None
    prefix: ClassVar[str]  # of the name

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return (self.epoch,)

    def finished(self, run: Run) -> int:
        """The finished epochs."""
        return run.experiment.recipe.epochs if self.epoch is None else self.epoch

    def name(self, run: Run) -> str:
        return f"{self.prefix}-{self.finished(run):03d}"

    def options(self, run: Run) -> dict[str, Any]:
        return {"epoch": self.finished(run)}


@dataclass(frozen=True, kw_only=True)
class OfImages(AtEpoch):
    """The same of test images drawn by the seed of the run; made under the name that its files have.

    Attributes:
        images: how many, or all of fewer.
    """

    images: int = 500

    @property
    def what(self) -> str | None:
        return self.prefix

    def options(self, run: Run) -> dict[str, Any]:
        return super().options(run) | {"images": self.images}


def drawn(split: Split, count: int, seed: int) -> Split:
    """So many inputs of a split, or all of fewer, drawn by a seed without regard to their labels, in the order of the split."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return Split(split.inputs[chosen], split.labels[chosen])


def measurable(
    runs: Sequence[Run], measurements: Callable[[Run], Sequence[Measurement]], *, device: str = "auto", progress: bool = True
) -> list[Run]:
    """The runs whose measurements are kept, or can be made now because the weights are here; the others are left out.

    Args:
        measurements: what a run has of them; one that has none is left out.

    Raises:
        StoreError: what is kept is damaged.
    """
    able = []
    for run in runs:
        wanted = measurements(run)
        if wanted and (all(each.kept(run) for each in wanted) or _has_weights(run)):
            for each in wanted:
                each.make(run, device=device, progress=progress)
            able.append(run)
    return able


def _has_weights(run: Run) -> bool:
    try:
        run.require_weights()
    except StoreError:
        return False
    return True


def heads_needed(run: Run) -> list[str]:
    """The ``mha`` sites of a run; raises ValueError where it has none."""
    sites = run.sites_of("mha")
    if not sites:
        raise ValueError(f"{run.experiment.id} has no mha site, so no heads; its sites are {', '.join(run.sites)}")
    return sites
