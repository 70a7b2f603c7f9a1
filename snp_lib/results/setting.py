"""A run opened for measuring, and what every measurement kept with a run has in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snp_lib import data
from snp_lib.data import Dataset
from snp_lib.machine import choose_device, data_dir, measuring_batch, uses_bfloat16
from snp_lib.models import Network
from snp_lib.store import Run, StoreError, derived
from snp_lib.store.derived import Arrays
from snp_lib.training.preparation import preparation


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
    def prepare(self) -> Callable[[Tensor], Tensor]:
        """From inputs on the device to what the network reads when it is tested."""
        inputs = self.dataset.train.inputs.to(self.torch_device)
        return preparation(self.run.experiment.recipe, inputs, self.dataset.num_classes).plain

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


def heads_needed(run: Run) -> list[str]:
    """The ``mha`` sites of a run; raises ValueError where it has none."""
    sites = run.sites_of("mha")
    if not sites:
        raise ValueError(f"{run.experiment.id} has no mha site, so no heads; its sites are {', '.join(run.sites)}")
    return sites
