"""Trainings with heads alike: the first steps against a loop by hand, what is kept, and the tables of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from snp_lib import data, experiments
from snp_lib.analysis.order_parameter import critical_time, spread
from snp_lib.experiments.experiment import initial_model
from snp_lib.models.symmetry import head_parameters, make_heads_alike
from snp_lib.results.order_parameter import (
    LEVEL,
    PARTS,
    ROUNDING,
    SCANS,
    Scan,
    SymmetricStart,
    critical_times,
    first_of_each,
    matrices_by_means,
    order_parameters,
    over_encoders,
    starts_of,
)
from snp_lib.store import Run
from snp_lib.training import train

SCAN = Scan(epsilons=(0.0, 0.5, 1.0), steps=25, every=10, until=0.9, images=3)  # beyond the 21 steps of an epoch


@pytest.fixture(scope="module")
def started(smoke_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[float, dict[str, np.ndarray]]]:
    """What the trainings of a short scan keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("started")))
        starts = {epsilon: SymmetricStart(epsilon=epsilon, scan=SCAN) for epsilon in SCAN.epsilons}
        yield {epsilon: start.make(smoke_run, device="cpu", progress=False) for epsilon, start in starts.items()}


def test_a_record_is_made_before_the_first_step_every_so_many_and_after_the_last(started: dict[float, dict[str, np.ndarray]]) -> None:
    for arrays in started.values():
        assert arrays["steps"].tolist() == [0, 10, 20, 25]
        assert arrays["weights"].shape == (4, 3, len(PARTS))
        assert {name: len(values) for name, values in arrays.items()} == dict.fromkeys(arrays, 4)


def test_heads_that_are_equal_stay_equal(started: dict[float, dict[str, np.ndarray]]) -> None:
    arrays = started[0.0]
    assert arrays["weights"].max() < 100 * ROUNDING
    assert arrays["means"].max() < 100 * ROUNDING
    assert arrays["information"].max() < 1e-9 < arrays["null"].min()
    assert arrays["loss"][-1] < arrays["loss"][0]  # and yet they learn


def test_more_differences_are_more_spread(started: dict[float, dict[str, np.ndarray]]) -> None:
    for name in ("weights", "means"):
        whole, half = started[1.0][name], started[0.5][name]
        assert (half < whole).all()
        assert (half > 0.01).all()
    assert started[1.0]["weights"][0] == pytest.approx(0.75, abs=0.1)


def test_with_all_differences_it_is_the_training_of_the_run(smoke_run: Run, started: dict[float, dict[str, np.ndarray]]) -> None:
    """The same spread as of a network trained for an epoch by the library's own loop, whose rates are those of the whole training."""
    experiment = smoke_run.experiment
    digits = data.load("digits", size=16)
    steps = len(digits.train) // experiment.recipe.batch_size
    assert 20 <= steps <= 25
    model = initial_model(experiment, 10)
    kept: dict[int, dict[tuple[int, str], torch.Tensor]] = {}
    train(
        model,
        digits,
        experiment.recipe,
        seed=experiment.seed,
        device=torch.device("cpu"),
        after_epoch=lambda epoch: kept.update({epoch: {place: heads.clone() for place, heads in head_parameters(model).items()}}),
        progress=False,
    )
    expected = {place: float(spread(heads.double().numpy())) for place, heads in kept[0].items()}
    assert started[1.0]["weights"][0] == pytest.approx(np.array([[expected[block, part] for part in PARTS] for block in (1, 2, 3)]))
    whole = SymmetricStart(epsilon=1.0, scan=replace(SCAN, steps=steps, every=steps))
    arrays = whole.make(smoke_run, device="cpu", progress=False)
    after = {place: float(spread(heads.double().numpy())) for place, heads in kept[1].items()}
    assert arrays["weights"][-1] == pytest.approx(np.array([[after[block, part] for part in PARTS] for block in (1, 2, 3)]), rel=1e-9)


def test_the_first_record_is_that_of_the_network_as_it_begins(smoke_run: Run, started: dict[float, dict[str, np.ndarray]]) -> None:
    digits = data.load("digits", size=16)
    few = first_of_each(digits.test, SCAN.images, 10)
    model = initial_model(smoke_run.experiment, 10).eval()
    make_heads_alike(model, 0.5)
    from snp_lib.training.preparation import preparation

    prepare = preparation(smoke_run.experiment.recipe, digits.train.inputs, 10).plain
    with torch.no_grad():
        logits, features = model(prepare(few.inputs), sites=["block2.mha"])
    assert started[0.5]["loss"][0] == pytest.approx(F.cross_entropy(logits, few.labels).item(), rel=1e-5)
    heads = features["block2.mha"].mean(1).unflatten(1, (4, 12))
    means = torch.stack([heads[few.labels == label].mean(0) for label in range(10)])
    apart = (means - means.mean(0)).transpose(0, 1).flatten(1).double().numpy()
    assert started[0.5]["means"][0, 1] == pytest.approx(float(spread(apart)), rel=1e-4)


def test_a_training_ends_where_the_heads_have_parted(smoke_run: Run, started: dict[float, dict[str, np.ndarray]]) -> None:
    between = float(started[0.5]["means"].mean(1)[:2].mean())
    passing = SymmetricStart(epsilon=0.5, scan=replace(SCAN, until=between)).make(smoke_run, device="cpu", progress=False)
    above = started[0.5]["means"].mean(1) >= between
    assert passing["steps"].tolist() == ([0, 10, 20, 25] if above[0] else [0, 10])  # one that begins above goes on
    assert np.array_equal(passing["means"], started[0.5]["means"][: len(passing["steps"])])


def test_the_first_inputs_of_every_label_are_taken() -> None:
    digits = data.load("digits")
    few = first_of_each(digits.test, 3, 10)
    assert torch.bincount(few.labels).tolist() == [3] * 10
    for label in range(10):
        of_label = digits.test.inputs[digits.test.labels == label][:3]
        assert torch.equal(few.inputs[few.labels == label], of_label)
    assert len(first_of_each(digits.test, 10_000, 10)) == len(digits.test)


def test_matrices_by_means_are_products_of_centred_means() -> None:
    means = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    centred = means - means.mean(0)
    expected = [[[float(centred[j, u] * centred[i, u]) for j in range(4)] for i in range(4)] for u in range(3)]
    np.testing.assert_allclose(matrices_by_means(means), expected, rtol=1e-5)


def test_only_the_compact_transformer_of_some_scales_has_them(smoke_run: Run) -> None:
    assert starts_of(smoke_run) == []  # of another name
    assert all({0.0, 1.0} <= set(scan.epsilons) for scan in SCANS.values())
    with pytest.raises(ValueError, match="no trainings with heads alike for cct-test-smoke-s0, only for cct at smoke, small"):
        order_parameters([smoke_run])


def test_the_table_holds_what_was_kept(own_folders: object, monkeypatch: pytest.MonkeyPatch, smoke_run: Run) -> None:
    monkeypatch.setitem(SCANS, "smoke", replace(SCAN, epsilons=(0.0, 1.0), steps=2, every=1))
    monkeypatch.setattr("snp_lib.results.order_parameter.starts_of", lambda run: [SymmetricStart(epsilon=0.5, scan=SCANS["smoke"])])
    arrays = SymmetricStart(epsilon=0.5, scan=SCANS["smoke"]).make(smoke_run, device="cpu", progress=False)
    table = order_parameters([smoke_run])
    assert table.step.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert table.block.tolist() == [1, 2, 3] * 3
    assert set(table.epsilon) == {0.5}
    for row, (record, block) in zip(table.itertuples(), np.ndindex(3, 3), strict=True):
        weights = arrays["weights"][record, block]
        assert row.outputs == arrays["means"][record, block]
        assert row.weights == pytest.approx(weights.mean())
        assert row.largest == max(weights.max(), row.outputs)
        assert row.excess == pytest.approx(arrays["information"][record, block] - arrays["null"][record, block])
        assert row.loss == arrays["loss"][record]
    averaged = over_encoders(table)
    assert averaged.step.tolist() == [0, 1, 2]
    assert averaged.outputs.tolist() == pytest.approx(arrays["means"].mean(1).tolist())


def test_critical_times_are_those_of_each_training() -> None:
    steps = np.arange(0, 600, 20)
    tables = [
        pd.DataFrame({"seed": seed, "epsilon": epsilon, "step": steps, "outputs": np.minimum(0.7, epsilon**2 * np.exp(0.04 * steps))})
        for seed in (0, 1)
        for epsilon in (0.0, 1e-4, 1e-2, 1.0)
    ]
    found = critical_times(pd.concat(tables))
    assert found[["seed", "epsilon"]].values.tolist() == [[0, 1e-2], [0, 1e-4], [1, 1e-2], [1, 1e-4]]
    assert found.decades.tolist() == pytest.approx([2, 4, 2, 4])
    assert found.rate.tolist() == pytest.approx([0.02] * 4)
    assert found.time.iloc[1] == pytest.approx(critical_time(steps.tolist(), tables[1].outputs.tolist(), LEVEL))
    near = critical_times(tables[0].assign(epsilon=0.1, outputs=np.minimum(0.7, 0.01 * np.exp(0.04 * steps))))
    assert near.rate.isna().all()  # from so near nothing below the level is growth alone
    assert near.time.tolist() == pytest.approx([np.log(3) / 0.04])
    assert found.slope.tolist() == pytest.approx([np.log(10) / 0.02] * 4, rel=1e-3)
    assert found.fit.tolist() == pytest.approx(found.time.tolist())


def test_the_name_of_a_measurement_holds_its_share(smoke_run: Run) -> None:
    start = SymmetricStart(epsilon=1e-6, scan=SCAN)
    assert start.name(smoke_run) == "symmetric-start-1e-06"
    assert start.options(smoke_run) == {"epsilon": 1e-6, "steps": 25, "every": 10, "until": 0.9, "images": 3}
    assert start.epochs(smoke_run) == ()  # no weights of the run are asked for
    assert experiments.get("cct", "smoke", 0).order_seed is None
