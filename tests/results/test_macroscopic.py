"""Accuracy of sites from single nodes: what is kept, and the tables of chapter A8 against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from snp_lib.performance import summarize
from snp_lib.performance.density import ones_at, snr_at_density
from snp_lib.performance.macroscopic import gaussian_accuracy, independent
from snp_lib.performance.statistics import rank_correlation
from snp_lib.results import MEASUREMENTS, measure
from snp_lib.results.equal_density import ones_for
from snp_lib.results.macroscopic import (
    CONTROLS,
    FITTED,
    MEAN,
    NUMBERS,
    SAME,
    WAYS,
    WORDS,
    NodesToSite,
    errors_by_seed,
    guesses,
    label_by_label,
    logits_as_gaussian,
    macroscopic_of,
    predicted_accuracy,
    prediction_errors,
)
from snp_lib.store import Run, StoreError


@pytest.fixture(scope="module")
def measured(run_with_stages: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("macroscopic")))
        patch.setenv("SNP_RECORDS_DIR", str(tmp_path_factory.mktemp("no-records")))
        measure([run_with_stages], "macroscopic", device="cpu", progress=False)
        yield run_with_stages


def test_a_table_measures_nothing_and_says_what_to_run(measured: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNP_RUNS_DIR", str(tmp_path))
    with pytest.raises(StoreError, match="`snp measure staged --scale smoke --seeds 0 --what macroscopic`"):
        predicted_accuracy([measured])


def test_it_is_made_where_readouts_pool_a_sequence(measured: Run) -> None:
    assert MEASUREMENTS["macroscopic"] is macroscopic_of
    assert [each.name(measured) for each in macroscopic_of(measured)] == ["macroscopic", "macroscopic-untrained"]
    other = replace(measured.experiment, readout=replace(measured.experiment.readout, pooling="mean"))
    assert macroscopic_of(replace(measured, experiment=other)) == []


def test_the_prediction_follows_from_the_record_and_the_spread_of_single_nodes(measured: Run) -> None:
    arrays = NodesToSite().read(measured)
    for s, site in enumerate(measured.sites):
        weight, means = (measured.arrays[f"{kind}/{site}"].astype(np.float64) for kind in ("weight", "means_test"))
        spread = arrays[f"sd/{site}"].astype(np.float64)
        expected = gaussian_accuracy(means @ weight.T, independent(weight, spread**2))
        kept = arrays["predicted"][WAYS.index("independent"), s]
        np.testing.assert_allclose(kept, expected, atol=4 * 0.5 / np.sqrt(1024))  # half precision turns a few draws
        assert kept.mean() == pytest.approx(expected.mean(), abs=0.01)
        known = measured.metrics["readout_accuracy"][site]
        counts = np.bincount(measured.labels, minlength=10)
        assert (arrays["measured"][s] * counts).sum() / counts.sum() == pytest.approx(known, abs=0.01)
        matrices, numbers = measured.matrices(site), dict(zip(NUMBERS, arrays["numbers"][s], strict=True))
        assert numbers["snr"] == pytest.approx(summarize(matrices, 0.3).snr, rel=0.1)
        assert numbers["equal"] == pytest.approx(snr_at_density(matrices, ones_for(10)[1]), rel=0.15)
        assert numbers["ones"] == pytest.approx(ones_at(matrices, 0.3).mean(), rel=0.05)
        assert numbers["noise_ratio"] > 1 > numbers["correlation"] > 0


def test_the_untrained_network_has_readouts_of_its_own(measured: Run) -> None:
    trained, untrained = (NodesToSite(trained=state).read(measured) for state in (True, False))
    assert untrained["measured"].mean() < trained["measured"].mean()
    assert untrained.keys() == trained.keys()
    assert untrained["predicted"].shape == (len(WAYS), len(measured.sites), 10)


def test_tables_are_means_and_correlations_over_labels(measured: Run) -> None:
    table, labels = predicted_accuracy([measured]), label_by_label([measured])
    assert len(table) == len(labels) == 2 * len(measured.sites)
    for state in ("trained", "untrained"):
        arrays = NodesToSite(trained=state == "trained").read(measured)
        s = list(measured.sites).index("block2.ff")
        row, by_label = (t[(t.network == state) & (t.block == 2) & (t.kind == "ff")].iloc[0] for t in (table, labels))
        assert row.accuracy == pytest.approx(arrays["measured"][s].mean())
        for w, way in enumerate(WAYS):
            assert row[way] == pytest.approx(arrays["predicted"][w, s].mean())
            expected = rank_correlation(arrays["predicted"][w, s], arrays["measured"][s])
            assert by_label[way] == pytest.approx(expected, nan_ok=True)


def test_the_same_site_of_other_seeds_is_the_mean_of_the_others_alone() -> None:
    rows = [{"seed": seed, "network": "trained", "block": 1, "kind": "ff", "accuracy": a} for seed, a in enumerate((0.1, 0.2, 0.6))]
    table = pd.DataFrame(rows).assign(**dict.fromkeys((*WAYS, *NUMBERS), 0.5))
    found = guesses(table)
    assert found[found.guess == SAME].predicted.tolist() == pytest.approx([0.4, 0.35, 0.15])


@pytest.mark.parametrize("seeds", [1, 3])
def test_errors_are_those_of_guesses_that_never_saw_the_network(measured: Run, seeds: int) -> None:
    runs = [replace(measured, experiment=replace(measured.experiment, seed=seed)) for seed in range(seeds)]
    tables = [predicted_accuracy([measured]).assign(seed=run.experiment.seed) for run in runs]
    table = tables[0] if seeds == 1 else pd.concat(tables, ignore_index=True)
    found = guesses(table)
    assert set(found.guess) == {*WORDS.values(), *CONTROLS.values(), FITTED, MEAN, *([SAME] if seeds > 1 else [])}
    same = found[found.guess == SAME]
    assert same.predicted.tolist() == pytest.approx(same.accuracy.tolist())  # the seeds are copies of one
    errors = prediction_errors(found)
    own = table[table.seed == 0]
    alone = errors[(errors.guess == WORDS["independent"]) & (errors.seed == 0)].iloc[0]
    assert alone.error == pytest.approx(abs(own.independent - own.accuracy).mean())
    trained = own[own.network == "trained"]
    assert alone.bias == pytest.approx((trained.independent - trained.accuracy).mean())
    rest = table.accuracy.mean() if seeds > 1 else None  # the seeds are copies of one: the mean of the others is that of all
    mean = found[(found.guess == MEAN) & (found.seed == 0)]
    if rest is not None:
        assert mean.predicted.tolist() == pytest.approx([rest] * len(mean))
        difference = errors_by_seed(errors, WORDS["correlated"], beside=True)
        best = min(errors[errors.guess == name].error.mean() for name in CONTROLS.values())
        assert difference == pytest.approx([error - best for error in errors_by_seed(errors, WORDS["correlated"])])
    else:
        ends = table.groupby("network").accuracy.mean()
        assert mean[mean.network == "trained"].predicted.tolist() == pytest.approx([ends["untrained"]] * (len(mean) // 2))


def test_logits_are_taken_as_one_gaussian_for_all_labels_or_one_for_each(measured: Run) -> None:
    row = logits_as_gaussian({"one": [measured]}).iloc[0]
    logits, labels = measured.logits.astype(np.float64), measured.labels
    right = [(logits[labels == label].argmax(1) == label).mean() for label in range(10)]
    assert row.accuracy == pytest.approx(np.mean(right))
    means = np.stack([logits[labels == label].mean(0) for label in range(10)])
    around = logits - means[labels]
    pooled = gaussian_accuracy(means, around.T @ around / (len(labels) - 10)).mean()
    assert row.pooled == pytest.approx(pooled, abs=0.01)
    each = [np.cov(logits[labels == label].T) for label in range(10)]
    alone = [gaussian_accuracy(means, covariance)[label] for label, covariance in enumerate(each)]
    assert row.each == pytest.approx(np.mean(alone), abs=0.02)
    standard = [around[labels == label, label] / around[labels == label, label].std() for label in range(10)]
    assert row.skewness == pytest.approx(np.mean(np.concatenate(standard) ** 3))
