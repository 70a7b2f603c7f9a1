"""Tables of the SNR at equal density against the functions behind them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from snp_lib.performance import summarize
from snp_lib.performance.density import decompose, snr_at_density
from snp_lib.results.equal_density import (
    DEALT,
    HEADS,
    ONES,
    learned_alignment,
    ones_for,
    operating_curves,
    real_over_dealt,
    rises_in_parts,
    ways_of_looking,
)
from snp_lib.results.sites import dealt_heads
from snp_lib.results.stages import Stage, matrices_at
from snp_lib.store import Run

KINDS = ("mha", "ff")


@pytest.fixture(scope="module")
def measured(staged_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The staged run, with what its untrained network recognises measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNP_RUNS_DIR", str(tmp_path_factory.mktemp("measured")))
        Stage(epoch=0).make(staged_run, device="cpu", progress=False)
        yield staged_run


def test_the_shares_of_ones_are_those_of_a_hundred_labels() -> None:
    assert ones_for(100) == ONES
    assert ones_for(10) == (1, 3, 10, 30)


def test_a_curve_holds_every_site_trained_and_untrained(measured: Run) -> None:
    table = operating_curves([measured], kinds=KINDS)
    assert len(table) == 2 * len(KINDS) * measured.depth * len(ones_for(10))
    arrays = Stage(epoch=0).read(measured)
    for state, matrices in (
        ("trained", measured.matrices("block2.ff")),
        ("untrained", matrices_at(arrays, "block2.ff", measured.sites["block2.ff"])),
    ):
        rows = table[(table.network == state) & (table.kind == "ff") & (table.block == 2)].set_index("ones").snr
        for ones in ones_for(10):
            assert rows[ones] == pytest.approx(snr_at_density(matrices, ones))


def test_heads_are_the_nodes_of_a_head_together(measured: Run) -> None:
    table = operating_curves([measured], kinds=(HEADS,), ends=True)
    assert sorted(table.block.unique()) == [1, measured.depth]
    first = table[(table.network == "trained") & (table.block == 1)].set_index("ones").snr
    assert first[10] == pytest.approx(snr_at_density(measured.matrices("block1.mha", unit="head"), 10))


def test_heads_dealt_anew_are_sums_of_as_many_nodes(measured: Run) -> None:
    table = operating_curves([measured], kinds=(HEADS, DEALT), ends=True, counts=(7,)).set_index(["network", "kind", "block"]).snr
    expected = next(iter(dealt_heads(measured, "block1.mha", 1)))[1]
    assert table["trained", DEALT, 1] == pytest.approx(snr_at_density(expected, 7))
    last = measured.depth
    ratio = real_over_dealt([measured], ones=7).ratio.item()
    assert ratio == pytest.approx(table["trained", HEADS, last] / table["trained", DEALT, last], nan_ok=True)


def test_the_parts_are_those_of_the_ends(measured: Run) -> None:
    table = rises_in_parts([measured], kinds=KINDS, theta=0.4).set_index(["network", "kind"])
    found = table.loc[("trained", "ff")]
    expected = decompose(measured.matrices("block1.ff"), measured.matrices(f"block{measured.depth}.ff"), 0.4)
    assert found[["rise", "sparsity", "alignment"]].tolist() == pytest.approx([expected.rise, expected.sparsity, expected.alignment])
    learned = learned_alignment(table.reset_index()).set_index("kind").learned
    assert learned["mha"] == pytest.approx(table.alignment["trained", "mha"] - table.alignment["untrained", "mha"])


def test_the_ways_of_looking_are_those_named(measured: Run) -> None:
    table = ways_of_looking([measured], kinds=("ff",)).set_index("matrices").rise
    ends = [f"block{block}.ff" for block in (1, measured.depth)]
    first, last = (measured.matrices(site, split="train") for site in ends)
    assert table["training images"] == pytest.approx(summarize(last).snr / summarize(first).snr)
    weight, means = ([measured.arrays[f"{kind}/{site}"].astype(np.float64) for site in ends] for kind in ("weight", "means_test"))
    free = [np.einsum("ju,iu->uij", w, m - m.mean(0)) for w, m in zip(weight, means, strict=True)]
    assert table["offset-free"] == pytest.approx(summarize(free[1]).snr / summarize(free[0]).snr, rel=1e-3)
    one = [np.einsum("ju,iu->uij", w - w.mean(0), m) for w, m in zip(weight, means, strict=True)]
    assert table["gauge Σ W = 0"] == pytest.approx(summarize(one[1]).snr / summarize(one[0]).snr, rel=1e-3)
