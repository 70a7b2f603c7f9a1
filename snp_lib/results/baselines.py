"""What simpler classifiers reach on the data set of a run, beside the network's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from snp_lib import data
from snp_lib.machine import data_dir
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays


@dataclass(frozen=True, kw_only=True)
class Baselines(Measurement):
    """Test accuracy of the simpler classifiers that a data set names, fitted on its training split.

    Arrays by name: ``names`` (classifier,) and ``accuracy`` (classifier,) in [0, 1].

    Raises:
        ValueError: the data set names none.
    """

    what: ClassVar[str] = "baselines"

    def name(self, run: Run) -> str:
        return "baselines"

    def options(self, run: Run) -> dict[str, Any]:
        return {}

    def epochs(self, run: Run) -> tuple[int | None, ...]:
        return ()

    def compute(self, setting: Setting) -> Arrays:
        dataset = setting.run.experiment.dataset
        fit = data.source(dataset, setting.data_root).baselines
        if fit is None:
            raise ValueError(f"no simpler classifiers are defined for {dataset}")
        accuracy = fit(Path(setting.data_root or data_dir()).expanduser(), setting.progress)
        return {"names": np.array(list(accuracy)), "accuracy": np.array(list(accuracy.values()))}


def baselines_of(run: Run) -> list[Measurement]:
    """The simpler classifiers of a run's data set, where it names some."""
    return [Baselines()] if data.source(run.experiment.dataset).baselines else []


def beside_baselines(runs: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy of runs of one experiment beside that of simpler classifiers, which are the same for every seed.

    Returns:
        Columns classifier (network, or the name of a simpler one), percent (mean over seeds), sd (NaN for one training) and n, the
        number of trainings.

    Raises:
        StoreError: nobody measured the simpler classifiers for the first run.
    """
    values = 100 * np.array([run.metrics["test_accuracy"] for run in runs])
    arrays = Baselines().read(runs[0])
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    rows: list[dict[str, Any]] = [{"classifier": "network", "percent": values.mean(), "sd": spread, "n": len(values)}]
    found = zip(arrays["names"].tolist(), arrays["accuracy"].tolist(), strict=True)
    return pd.DataFrame(rows + [{"classifier": name, "percent": 100 * value, "sd": np.nan, "n": 1} for name, value in found])
