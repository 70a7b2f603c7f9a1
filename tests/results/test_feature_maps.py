"""What is kept of frequencies, variance and lesions, and its tables, against the passes they gather."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from snp_lib.analysis.fourier import relative_log_amplitude
from snp_lib.analysis.lesion import correct_when_lesioned
from snp_lib.analysis.residual import Measured, of_additions
from snp_lib.analysis.variance import spatial_variance
from snp_lib.results import families, fourier, heads, lesion, measure, variance
from snp_lib.results.setting import Setting, drawn, measurable
from snp_lib.store import Run, StoreError


@pytest.fixture
def seen(staged: Run) -> Run:
    measure([staged], "fourier", "noise", "variance", "lesion", "ablation", device="cpu", progress=False)
    return staged


def passed(run: Run, epoch: int | None, what: object) -> list[Measured]:
    """The pass over the drawn test images once more."""
    setting = Setting(run, "cpu", progress=False)
    return of_additions(setting.network_at(epoch), drawn(setting.dataset.test, 500, 0), setting.prepare, what)  # type: ignore[arg-type]


def test_images_are_drawn_by_a_seed(staged: Run) -> None:
    test = Setting(staged, "cpu", progress=False).dataset.test
    few, again, other = (drawn(test, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(few.inputs, again.inputs)
    assert not torch.equal(few.labels, other.labels)
    rows = [int((test.inputs == one).flatten(1).all(1).nonzero()[0]) for one in few.inputs]
    assert rows == sorted(rows)
    assert torch.equal(test.labels[rows], few.labels)
    assert len(drawn(test, 10**6, 0)) == len(test)


@pytest.mark.parametrize(("epoch", "network"), [(None, "trained"), (0, "untrained")])
def test_spectra_are_means_over_the_drawn_images(seen: Run, epoch: int | None, network: str) -> None:
    table, found = fourier.spectra([seen]), passed(seen, epoch, relative_log_amplitude)
    for depth, each in enumerate(found, start=1):
        for state in ("skip", "output", "shuffled"):
            rows = table[(table.network == network) & (table.depth == depth) & (table.state == state)]
            np.testing.assert_allclose(rows.amplitude, getattr(each, state).mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(rows.frequency, 2 * np.arange(each.side // 2 + 1) / each.side)
        assert (rows.block.iloc[0], rows.kind.iloc[0]) == ((depth + 1) // 2, "feed-forward" if depth % 2 == 0 else "attention")
    table = fourier.changes([seen])
    last = table[(table.network == network) & (table.depth == len(found))].iloc[0]
    skip, output, shuffled = (float(getattr(found[-1], state).mean(0)[-1]) for state in ("skip", "output", "shuffled"))
    assert (last.change, last.shuffled) == pytest.approx((output - skip, shuffled - skip), abs=1e-4)
    assert last.beyond == pytest.approx(output - shuffled, abs=1e-4)
    assert last.frequency == 1


def test_means_over_units_and_what_is_learned(staged: Run) -> None:
    rows = [("attention", "trained", 1.0), ("attention", "trained", 3.0), ("attention", "untrained", 0.5), ("feed-forward", "trained", 9.0)]
    table = pd.DataFrame(rows, columns=["kind", "network", "change"]).assign(seed=0)

    assert fourier.mean_over_units(table, [staged], "change", "attention") == [2.0]
    assert fourier.mean_over_units(table, [staged], "change", "attention", learned=True) == [1.5]


def test_noise_of_no_size_loses_nothing_and_that_of_some_does(seen: Run) -> None:
    table = fourier.under_noise([seen])
    assert table.groupby("noise").frequency.apply(list).map(len).tolist() == [9, 9]
    np.testing.assert_allclose(table.lost, 100 * (table.intact - table.accuracy))
    assert table.lost.abs().max() > 1
    silent = fourier.FrequencyNoise(epsilon=1e-6)
    arrays = silent.make(seen, device="cpu", progress=False)
    np.testing.assert_array_equal(arrays["accuracy"], np.broadcast_to(arrays["intact"], (2, 9)))
    assert (silent.what, fourier.FrequencyNoise().what) == (None, "noise")
    (difference,) = fourier.low_minus_high(table, [seen], "equal energy")
    lost = table[table.noise == "equal energy"].lost.to_numpy()
    assert difference == pytest.approx((lost[:4].mean() - lost[5:].mean()) / 100)


@pytest.mark.parametrize(("epoch", "network"), [(None, "trained"), (0, "untrained")])
def test_variances_are_means_over_the_drawn_images(seen: Run, epoch: int | None, network: str) -> None:
    table, found = variance.variances([seen]), passed(seen, epoch, spatial_variance)
    rows = table[table.network == network]
    skip, output, shuffled = (np.array([getattr(each, s).mean() for each in found]) for s in ("skip", "output", "shuffled"))
    np.testing.assert_allclose(rows.variance, output, rtol=1e-4)
    np.testing.assert_allclose(rows.change, np.log(output / skip), atol=1e-4)
    np.testing.assert_allclose(rows.beyond, np.log(output / shuffled), atol=1e-4)


def test_lesions_are_those_of_the_pass_and_stand_beside_heads(seen: Run) -> None:
    setting = Setting(seen, "cpu", progress=False)
    chosen = drawn(setting.dataset.test, 500, 0)
    intact, *correct = correct_when_lesioned(setting.network, chosen, setting.prepare).mean(1)
    table = lesion.lesions([seen])
    np.testing.assert_allclose(table.intact, intact)
    np.testing.assert_allclose(table.accuracy, correct)
    attention = table[table.kind == "attention"].lost.to_numpy()
    assert lesion.excess_of(table, [seen], [2])[0] == pytest.approx((attention[1] - attention[[0, 2]].mean()) / 100)
    beside = lesion.beside_heads(table, [seen])
    ablation = heads.head_ablation(seen)
    lost = 100 * (ablation.baseline.mean() - ablation.accuracy[1, :4].mean(1))  # the first variants take one head away each
    row = beside[beside.block == 2].iloc[0]
    assert (row["one head"], row["all heads"], row.lost) == pytest.approx((lost.mean(), lost.sum(), attention[1]))
    assert row.together == pytest.approx(attention[1] - lost.sum())


def test_the_end_of_a_stage_against_its_beginning(staged: Run) -> None:
    widths = {"stem": 4, "block1": 8, "block2": 8, "block3": 16, "block4": 16, "block5": 16}
    run = replace(staged, manifest=staged.manifest | {"sites": widths})
    table = pd.DataFrame({"depth": range(1, 6), "block": range(1, 6), "lost": [50.0, 7, 1, 2, 4]}).assign(seed=0)
    kinds = ["convolution", "convolution", "convolution", "convolution", "attention"]
    assert lesion.last_minus_first(table.assign(kind=kinds), [run]) == [0.03]  # the first stage has no attention
    kinds[1] = "attention"
    assert lesion.last_minus_first(table.assign(kind=kinds), [run]) == [pytest.approx((0.03 - 0.43) / 2)]


def test_runs_that_can_be_measured(seen: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measurable([seen], fourier.fourier_of) == [seen]
    assert measurable([seen], lambda run: []) == []

    def absent(self: Run, epoch: int | None = None) -> None:
        if epoch != 0:  # the untrained network comes from its seed
            raise StoreError("no weights")

    monkeypatch.setattr(Run, "require_weights", absent)
    assert measurable([seen], fourier.fourier_of) == [seen]  # it is kept
    assert measurable([seen], lambda run: [fourier.FeatureSpectra(images=7)]) == []


def test_networks_are_trained_at_smoke_scale_alone(seen: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "run_all", lambda experiments, device: [seen for _ in experiments])
    monkeypatch.setattr(families, "find", lambda experiment: seen if experiment.name == "vit" else None)
    wanted = ("cct", "vit"), fourier.fourier_of
    assert families.networks_measured(wanted[0], "smoke", "0", wanted[1]) == {"cct": [seen], "vit": [seen]}
    assert families.networks_measured(wanted[0], "small", "0,1", wanted[1]) == {"vit": [seen, seen]}
