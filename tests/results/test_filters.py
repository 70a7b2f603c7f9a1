"""Single-filter performance of a run: matrices against the fields of every image, and the tables made of what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import twins

from snp_lib import data
from snp_lib.performance import binarize, diagonal_sets, group_units, summarize, unit_matrices
from snp_lib.performance.clusters import column_noise
from snp_lib.performance.density import snr_at_density
from snp_lib.results import filters, measure
from snp_lib.results.filters import CONTROLS, Filters, first_clusters
from snp_lib.results.setting import Setting
from snp_lib.results.stages import STATISTICS, THETAS
from snp_lib.store import Run
from snp_lib.store.make import read_out
from snp_lib.training.preparation import make_normalize


@pytest.fixture
def run(vgg_run: Run, filters_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SNP_RUNS_DIR", str(filters_folder))
    return vgg_run


def test_what_is_kept_is_what_readouts_of_whole_maps_give(run: Run) -> None:
    kept, setting = Filters().read(run), Setting(run, "cpu", progress=False)
    recipe = replace(run.experiment.readout, pooling="flat")
    readouts, measured = read_out(setting.network, run.experiment, setting.dataset, ("train", "test"), recipe, progress=False)
    assert kept["statistics"].shape == (2, 10, len(THETAS), len(STATISTICS))
    for s, site in enumerate(run.sites):
        weight = group_units(readouts[site].linear.weight.detach(), run.sites[site])
        train, test = (
            unit_matrices(group_units(measured[split].class_means[site], run.sites[site]), weight).numpy() for split in ("train", "test")
        )
        assert kept["statistics"][0, s, 1, STATISTICS.index("snr")] == pytest.approx(summarize(test, 0.3).snr)
        assert kept["curves"][0, s, 1] == pytest.approx(snr_at_density(test, int(kept["ones"][1])))
        summary = summarize(test, 0.3)
        assert kept[f"units/{site}"].tolist() == [
            summary.labels_of_unit.tolist(), summary.noise.tolist(), column_noise(binarize(test, 0.3)).tolist()
        ]  # fmt: skip
        shares = kept[f"train/shares/{site}"].astype(np.float32)
        assert ((shares > 0.3) != diagonal_sets(binarize(train, 0.3))).mean() < 0.01  # half precision moves few over the threshold
        assert np.array_equal(kept[f"train/clusters/{site}"] >= 0, diagonal_sets(binarize(train, 0.3)))
    assert kept["readout_accuracy"].tolist() == [measured["test"].readout_accuracy[site] for site in run.sites]
    assert kept["accuracy"].item() == run.metrics["test_accuracy"]
    assert np.array_equal(kept["train/readout"], readouts["block10"].linear.weight.detach().half().numpy())


def test_matrices_clusters_and_noise_of_real_maps_are_those_of_the_released_algorithm(run: Run) -> None:
    """Image by image: the field that a filter's map puts on every output, added up by label, then the released steps."""
    dataset, model = data.load("digits", size=32), run.network()
    test = [torch.nonzero(dataset.test.labels == label).flatten()[:20] for label in range(10)]  # equally many, as in CIFAR-100
    chosen = torch.cat(test)
    images = make_normalize(run.experiment.recipe, dataset.train.inputs)(dataset.test.inputs[chosen])
    recipe = replace(run.experiment.readout, pooling="flat", kinds=("block",))
    setting = Setting(run, "cpu", progress=False)
    readouts, measured = read_out(
        model, run.experiment, replace(setting.dataset, test=_some(setting.dataset.test, chosen)), ("test",), recipe
    )
    with torch.no_grad():
        features = model(images, sites=["block4", "block10"])[1]
    for site, maps in features.items():
        places = maps[0, 0].numel()
        weight = readouts[site].linear.weight.detach()
        found = unit_matrices(*(group_units(values, run.sites[site]) for values in (measured["test"].class_means[site], weight))).numpy()
        summary, columns = summarize(found, 0.3), column_noise(binarize(found, 0.3))
        for f in range(3):
            fields = maps[:, f].flatten(1) @ weight[:, f * places : (f + 1) * places].T  # (image, output)
            matrix = torch.zeros(10, 10, dtype=torch.float64)
            for field, label in zip(fields, dataset.test.labels[chosen], strict=True):
                matrix[label] += field.double() / 1000
            np.testing.assert_allclose(found[f], matrix.numpy() * 1000 / 20, rtol=1e-3, atol=1e-5)
            if matrix.max() > 0:
                assert twins.released_filter(matrix.numpy(), 0.3) == (summary.clusters[f], summary.noise[f], columns[f])


def _some(split, chosen):  # type: ignore[no-untyped-def]
    return replace(split, inputs=split.inputs[chosen], labels=split.labels[chosen])


def test_an_untrained_network_is_measured_with_statistics_of_its_own(run: Run) -> None:
    kept, trained = Filters(untrained=True).read(run), Filters().read(run)
    assert kept["accuracy"].item() < 0.3  # chance is 0.1
    assert kept["readout_accuracy"].min() > 0.2  # yet its maps tell something, which they would not without
    assert not any(name.startswith(("train/", "matrix/")) for name in kept)
    assert trained["readout_accuracy"][-1] > kept["readout_accuracy"][-1]


def test_tables_of_filters(run: Run) -> None:
    table = filters.filter_statistics([run], thetas=(0.3, 0.5))
    assert len(table) == 2 * len(CONTROLS) * 10 * 2
    row = table[(table.network == "trained") & (table.outputs == "measured") & (table.block == 3) & (table.theta == 0.5)].iloc[0]
    kept = Filters().read(run)
    assert row.snr == kept["statistics"][0, 2, THETAS.index(0.5), STATISTICS.index("snr")]
    assert row.accuracy == kept["readout_accuracy"][2]
    curves = filters.filter_curves([run])
    assert len(curves) == 2 * len(CONTROLS) * 10 * len(kept["ones"])
    shown = filters.middle_filter(run, 10)
    assert sorted(label for cluster in shown["clusters"] for label in cluster) == np.flatnonzero(shown["binary"].diagonal()).tolist()
    units = filters.filter_by_filter([run, run], [1, 10])
    assert len(units["labels per filter"]["layer 10"]) == 2 * run.sites["block10"]
    assert units["noise per filter"]["layer 1"].max() >= units["noise in the columns of its labels"]["layer 1"].max()


def test_the_released_script_reads_clusters_for_filters(run: Run) -> None:
    index = np.array([[0, 0, 1, -1], [-1, 0, -1, -1], [-1, -1, -1, 0]])
    assert first_clusters(index).tolist() == [[True, True, False, False], [False, False, True, False], [False, True, False, False]]
    assert first_clusters(index[1:]).tolist() == (index[1:] >= 0).tolist()  # right where every filter has one cluster
    assert first_clusters(np.full((2, 3), -1)).sum() == 0
    table = filters.released_script([run])
    assert table.layer.tolist() == [8, 9, 10]
    assert ((table.wrong > 0) | (table.clusters == 1)).all()


def test_filters_nodes_and_heads_share_their_axes(run: Run, smoke_run: Run, monkeypatch: pytest.MonkeyPatch, smoke_runs_dir: Path) -> None:
    wide, curves = filters.filter_statistics([run]), filters.filter_curves([run])
    monkeypatch.setenv("SNP_RUNS_DIR", str(smoke_runs_dir))
    measure([smoke_run], "stages", "heads", device="cpu", progress=False)
    monkeypatch.setattr(filters, "filter_statistics", lambda runs, thetas: wide)
    monkeypatch.setattr(filters, "filter_curves", lambda runs: curves)
    table = filters.three_units([run], [smoke_run])
    assert set(table.unit) == {"filters", "nodes", "heads"}
    assert table.groupby("unit").depth.max().tolist() == [1.0] * 3
    assert table.notna().all().all()
    assert len(table) == 2 * 10 + 2 * 3 * 2
