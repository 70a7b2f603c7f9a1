"""One unit as a figure shows it."""

from __future__ import annotations

import numpy as np
import pytest

from snp_lib.performance import binarize, summarize
from snp_lib.results.units import one_unit, typical
from snp_lib.store import Run


@pytest.mark.parametrize(("site", "unit", "index"), [("block2.ff", "node", 7), ("block3.mha", "head", 1)])
def test_a_unit_is_one_of_its_site(smoke_run: Run, site: str, unit: str, index: int) -> None:
    one = one_unit(smoke_run, site, index, unit=unit, theta=0.4)  # type: ignore[arg-type]
    matrices = smoke_run.matrices(site, unit=unit)  # type: ignore[arg-type]
    summary = summarize(matrices, 0.4)
    assert np.array_equal(one.matrix, matrices[index])
    assert np.array_equal(one.binary, binarize(matrices, 0.4)[index])
    assert one.clusters == summary.clusters[index]
    labels, clusters, noise = (getattr(summary, name)[index] for name in ("labels_of_unit", "clusters_of_unit", "noise"))
    assert one.words == f"{labels} labels in {clusters} clusters, noise {noise}"


def test_as_many_nodes_recognise_more_labels_than_the_typical_one_as_fewer(smoke_run: Run) -> None:
    labels = summarize(smoke_run.matrices("block1.ff_hidden"), 0.3).labels_of_unit
    chosen = labels[typical(smoke_run, "block1.ff_hidden", theta=0.3)]
    assert (labels < chosen).sum() <= len(labels) / 2
    assert (labels > chosen).sum() <= len(labels) / 2
