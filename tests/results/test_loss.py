"""What is kept of landscapes and curvature, and its tables, against losses and products computed once more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snp_lib.analysis.hessian import hessian_product
from snp_lib.analysis.landscape import direction
from snp_lib.results import hessian, landscape, measure
from snp_lib.results.setting import Setting
from snp_lib.store import Run


@pytest.fixture
def rounded(staged: Run) -> Run:
    measure([staged], "landscape", "hessian", device="cpu", progress=False)
    return staged


def test_inputs_as_the_network_learns_from_them_are_drawn_once(staged: Run) -> None:
    setting = Setting(staged, "cpu", progress=False)
    first, again, other = (setting.learned_from(16, seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert len(first[0]) == len(first[1]) == 16


@pytest.mark.parametrize(("epoch", "network"), [(None, "trained"), (0, "untrained")])
def test_the_centre_is_the_loss_and_the_end_that_of_moved_weights(rounded: Run, epoch: int | None, network: str) -> None:
    setting = Setting(rounded, "cpu", progress=False)
    model, (inputs, targets) = setting.network_at(epoch), setting.learned_from(64, 0)
    table = landscape.profiles([rounded])
    rows = table[(table.network == network) & (table.normalization == "filter") & (table.direction == 1)].set_index("radius")
    norms = [float(p.detach().norm()) for p in model.parameters()]
    with torch.no_grad():
        centre = float(F.cross_entropy(model(inputs), targets))
        for name, change in direction(model, torch.Generator().manual_seed(0)).items():
            model.get_parameter(name).add_(change)
        end = float(F.cross_entropy(model(inputs), targets))
    assert rows.loss[0.0] == pytest.approx(centre, rel=1e-5)
    assert rows.nll[1.0] == pytest.approx(end - centre, rel=1e-4)
    assert rows.norm[1.0] == pytest.approx(0.05 * (sum(float(p.detach().norm()) for p in model.parameters()) - sum(norms)), rel=1e-3)
    assert (rows.nll[0.0], rows.norm[0.0]) == (0, 0)
    assert table.groupby("normalization").direction.nunique().to_dict() == {"filter": 3, "released": 1}


def test_the_share_of_the_norm_term(rounded: Run) -> None:
    table = landscape.profiles([rounded])
    rows = table[(table.network == "trained") & (table.normalization == "filter") & (table.radius == 0.5)]
    (share,) = landscape.norm_share(table, [rounded], 0.5)
    assert share == pytest.approx(rows.norm.sum() / (rows.norm.sum() + rows.nll.sum()))


def test_released_landscapes_are_those_that_were_published() -> None:
    table = landscape.released().set_index(["network", "axis", "step"])
    assert len(table) == 2 * 2 * 21
    for network, norm, nll in (("ViT-Ti", 9.8, 2.5), ("ResNet-50", 16.4, 3.5)):
        end = table.loc[network, "x", 1.0]
        assert (end.norm, end.nll) == pytest.approx((norm, nll), abs=0.05)
        assert table.loc[network, "x", 0.0].loss == table.loc[network, "y", 0.0].loss


def test_curvature_is_that_of_the_mini_batches(rounded: Run) -> None:
    setting = Setting(rounded, "cpu", progress=False)
    product = hessian_product(setting.network, *setting.learned_from(16, 0))
    vector = torch.randn(sum(p.numel() for p in setting.network.parameters()), generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        vector = product(vector / vector.norm())
    table = hessian.curvature([rounded])
    first = table[(table.network == "trained") & (table.batch == 1)].iloc[0]
    assert max(first.largest, -first.smallest) == pytest.approx(float(vector.norm()), rel=0.05)
    assert first.smallest < 0 < first.largest
    assert 0 < first.negative < 1
    mean = table[table.network == "untrained"].negative.mean()
    np.testing.assert_allclose(hessian.mean_over_batches(table, [rounded], "negative", "untrained"), [mean])


def test_a_density_is_one_in_all_and_has_the_mean_of_the_spectrum(rounded: Run) -> None:
    table = hessian.densities([rounded], points=4001).fillna(0)
    arrays = hessian.HessianSpectrum(epoch=0).read(rounded)
    rows = table[table.network == "untrained"]
    step = rows.eigenvalue.diff().iloc[1]
    assert (rows.density * step).sum() == pytest.approx(1, abs=0.05)  # the grid ends with the eigenvalues
    mean = (arrays["values"] * arrays["weights"]).sum(1).mean()
    assert (rows.density * rows.eigenvalue * step).sum() == pytest.approx(mean, abs=0.02 * float(np.ptp(arrays["values"])))
