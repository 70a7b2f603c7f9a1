"""What is measured of a run that reads characters: superclasses, driving tokens, simpler classifiers, and all that images have too."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from snp_lib import data, experiments, run_all
from snp_lib.analysis.attention import attend_to
from snp_lib.performance import find_clusters
from snp_lib.performance.clusters import binarize
from snp_lib.results import baselines, measurements_of, superclasses, tokens
from snp_lib.results.equal_density import matrices_by_state
from snp_lib.results.stages import Stage
from snp_lib.store import Run


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The ten languages of the smoke scale, measured."""
    measured = [Stage(epoch=0), "superclasses", "tokens", "baselines"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("names")))
        (run,) = run_all([experiments.get("text-cldr", "smoke", 0)], measured=measured, device="cpu", progress=False)
        yield run  # type: ignore[misc]


def test_clusters_against_families_one_pair_at_a_time(names: Run) -> None:
    table = superclasses.superclass_kinship([names], theta=0.3, permutations=50)
    groups = data.load("cldr-10").superclasses
    assert groups is not None
    assert superclasses.Superclasses().read(names)["names"][superclasses.superclass(names)].tolist() == list(groups)
    states = list(matrices_by_state(names, ("mha",), ends=False))
    assert table.network.tolist() == [state for state, *_ in states] == ["trained", "untrained"] * 2
    for (_, _, block, matrices), row in zip(states, table.itertuples(), strict=True):
        same = [
            groups[i] == groups[j]
            for binary in binarize(matrices, 0.3)
            for cluster in find_clusters(binary)
            for i, j in combinations(cluster, 2)
        ]
        assert (row.block, row.pairs) == (block, len(same))
        assert row.share == pytest.approx(np.mean(same))
        assert row.ratio == pytest.approx(row.share / row.expected)
        assert row.ratio_low < row.ratio_chance == 1 < row.ratio_high


def test_the_tokens_that_drive_a_node_one_text_at_a_time(names: Run) -> None:
    arrays, dataset = tokens.DrivingTokens().read(names), data.load("cldr-10")
    site = names.sites_of("mha")[-1]
    network, readout, vocabulary = names.network(), names.readouts()[site], dataset.vocabulary
    assert vocabulary is not None
    with torch.no_grad():
        pooled = torch.cat([readout.pool(network(text[None, text > 0], sites=[site])[1][site]) for text in dataset.test.inputs])
    node = int(arrays["effects"][:, 0].argmax())
    values, label = pooled[:, node].numpy(), int(arrays["label"][node])
    assert label == names.matrices(site)[node].diagonal().argmax()
    sign = float(torch.sign(readout.linear.weight.detach()[label, node]))
    for token, effect in zip(arrays["tokens"][node], arrays["effects"][node], strict=True):
        holds = (dataset.test.inputs == vocabulary.index(token)).any(1).numpy()
        assert holds.sum() >= 10
        assert effect == pytest.approx(sign * (values[holds].mean() - values.mean()) / values.std(), abs=1e-3)
    assert (np.diff(arrays["effects"], axis=1) <= 0).all()
    effects = tokens.largest_effects([names]).set_index("inputs").effect
    assert effects["as they are"] > 1.3 * effects["shuffled"]  # the control fails
    shown = tokens.driven_nodes(names, most=3)
    assert len(shown) <= 3
    assert shown.effect.is_monotonic_decreasing


def test_simpler_classifiers_stand_beside_the_network(names: Run) -> None:
    table = baselines.beside_baselines([names]).set_index("classifier")
    assert list(table.index) == ["network", "linear SVM"]
    assert table.percent["network"] == pytest.approx(100 * names.metrics["test_accuracy"])
    assert 30 < table.percent["linear SVM"] < 70  # chance is 10


def test_what_does_not_apply_is_left_out_or_refused(names: Run, smoke_run: Run, tmp_path: Path) -> None:
    for what in ("tokens", "superclasses", "baselines"):
        assert len(measurements_of(names, what)) == 1
        assert measurements_of(smoke_run, what) == []
    for measurement, message in (
        (tokens.DrivingTokens(), "the inputs of digits are no tokens"),
        (superclasses.Superclasses(), "the labels of digits have no superclasses"),
        (baselines.Baselines(), "no simpler classifiers are defined for digits"),
        (tokens.DrivingTokens(fewest=5000), "0 tokens are in 5000 test inputs or more"),
    ):
        with pytest.raises(ValueError, match=message):
            measurement.make(names if "5000" in message else smoke_run, progress=False)


def test_attention_is_among_the_tokens_that_are_there(names: Run) -> None:
    network, test = names.network(), data.load("cldr-10").test
    few = data.Split(test.inputs[:30], test.labels[:30])
    found = attend_to(network, few, lambda x: x, batch_size=7, rows=3)
    for row, text in enumerate(few.inputs):
        length = int((text > 0).sum())
        alone = attend_to(network, data.Split(text[None], few.labels[:1]), lambda x: x)
        assert np.allclose(found.maps[:, :, row].sum(-1), 1, atol=1e-5)
        assert not found.maps[:, :, row, length:].any()
        assert found.entropy[:, :, row].max() <= np.log2(length) + 1e-4
        for name in ("maps", "entropy", "distance"):
            np.testing.assert_allclose(getattr(found, name)[:, :, row], getattr(alone, name)[:, :, 0], atol=1e-4)
