"""RandAugment and AutoAugment: what they draw, and that a draw is applied as torchvision would, image by image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torchvision.transforms as reference
from jaxtyping import config
from scipy.stats import chisquare, kstest, norm
from torch import Tensor

from snp_lib.data.augment.operations import INDEX, OPERATIONS
from snp_lib.data.augment.policies import AutoAugment, Layers, RandAugment
from tests.data.test_operations import all_one_by_one, pictures

CPU = torch.device("cpu")
FILL = (125.0, 123.0, 114.0)
POLICIES = [RandAugment(fill=FILL), RandAugment(fill=FILL, increasing=False, magnitude_std=1.0), AutoAugment(fill=FILL)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def original() -> reference.AutoAugment:
    return reference.AutoAugment(reference.AutoAugmentPolicy.CIFAR10)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (3, (13, 20)), (1, (28, 28))])
def test_a_draw_applied_to_the_batch_equals_torchvision_image_by_image(
    policy: RandAugment | AutoAugment, channels: int, size: tuple[int, int]
) -> None:
    n, images = 400, pictures(400, channels, *size)
    policy = replace(policy, fill=FILL[:channels])
    layers = policy.draw(n, generator(), CPU)
    expected = images
    for operation, share in zip(*layers, strict=True):
        sides = {INDEX["translate_x"]: size[1], INDEX["translate_y"]: size[0]}
        strength = torch.tensor([s * sides.get(int(o), 1) for o, s in zip(operation, share.tolist(), strict=True)], dtype=torch.float64)
        if isinstance(policy, AutoAugment):
            moved = (operation == INDEX["translate_x"]) | (operation == INDEX["translate_y"])
            strength = torch.where(moved, strength.trunc(), strength)
        expected = all_one_by_one(expected, operation, strength, policy.fill, policy.interpolation)
    wrong = policy.apply(images, layers) != expected
    # a bilinear level may round to its neighbour, which a second layer may spread over the image's levels
    assert wrong.flatten(1).any(1).double().mean() <= 0.01
    assert (expected != images).flatten(1).any(1).double().mean() > 0.4


@pytest.mark.parametrize("signs", list(itertools.product([0, 1], repeat=2)))
@pytest.mark.parametrize("size", [(32, 32), (48, 20)])
def test_every_pair_of_the_policy_equals_torchvision(
    original: reference.AutoAugment, monkeypatch: pytest.MonkeyPatch, signs: tuple[int, int], size: tuple[int, int]
) -> None:
    n = len(original.policies)
    images = pictures(n, 3, *size, seed=5)
    for chances in ((0.05, 0.05), (0.05, 0.95), (0.55, 0.25)):
        expected = []
        for pair in range(n):
            monkeypatch.setattr(
                original, "get_params", lambda _, pair=pair, chances=chances: (pair, torch.tensor(chances), torch.tensor(signs))
            )
            expected.append(original(images[pair]))
        rows = torch.tensor(chances).view(2, 1).expand(2, n), torch.tensor(signs).bool().view(2, 1).expand(2, n)
        policy = AutoAugment()
        assert torch.equal(policy.apply(images, policy.layers(torch.arange(n), *rows)), torch.stack(expected))


@pytest.mark.parametrize("side", [8, 28, 32, 64, 96, 224])
def test_translations_are_torchvisions_whole_pixels(original: reference.AutoAugment, side: int) -> None:
    space = original._augmentation_space(10, (side, side))["TranslateY"][0]
    marked = torch.zeros(1, 1, side, 1, dtype=torch.uint8)
    marked[:, :, 0] = 255
    shares = {share: level for pair in original.policies for name, share, level in pair if name == "TranslateY"}
    assert set(shares.values()) <= {3, 9}
    pairs = [i for i, pair in enumerate(original.policies) if pair[0][0] == "TranslateY" and pair[1][0] != "TranslateY"]
    for i in pairs:
        layers = AutoAugment().layers(torch.tensor([i]), torch.tensor([[0.0], [0.99]]), torch.ones(2, 1, dtype=torch.bool))
        moved = AutoAugment().apply(marked, layers)
        assert int(moved[0, 0, :, 0].argmax()) == int(space[original.policies[i][0][2]])


def grey_statistics(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the images of: mean and sd of each channel, change of each channel, share changed; and their standard errors."""
    levels = after.double().flatten(2)
    change = (after.double() - before.double()).abs().flatten(2).mean(2)
    changed = (after != before).flatten(1).any(1).double().unsqueeze(1)
    rows = torch.cat([levels.mean(2), levels.std(2), change, changed], 1)
    return rows.mean(0), rows.std(0) / math.sqrt(len(rows))


def test_ten_thousand_images_look_as_torchvisions(original: reference.AutoAugment) -> None:
    images = pictures(10_000, 3, 16, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs, their_error = grey_statistics(images, torch.stack([original(image) for image in images]))
    ours, our_error = grey_statistics(images, AutoAugment()(images, generator()))
    z = (ours - theirs) / (our_error.square() + their_error.square()).sqrt()
    assert z.abs().max() < 4  # ten statistics: 6 in 10,000 seeds would fail


def timm_strength(name: str, magnitude: float, sign: int, increasing: bool) -> float:
    """timm's level → argument functions, one number at a time; enhancements as factors, translations as shares."""
    level = min(max(magnitude, 0.0), 10.0) / 10
    if name in ("brightness", "contrast", "color", "sharpness"):
        return max(0.1, 1 + sign * level * 0.9) if increasing else level * 1.8 + 0.1
    if name in ("posterize", "solarize"):
        top = {"posterize": 4, "solarize": 256}[name]
        return top - int(level * top) if increasing else int(level * top)
    if name == "solarize_add":
        return int(level * 110)
    return sign * level * {"rotate": 30, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.45, "translate_y": 0.45}.get(name, 0)


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
def test_strengths_are_timms(increasing: bool, magnitude: float) -> None:
    policy = RandAugment(increasing=increasing)
    operation = torch.arange(len(OPERATIONS)).expand(2, -1).contiguous()
    sign = torch.tensor([[1], [-1]]).expand(2, len(OPERATIONS)).contiguous()
    result = policy.strength(operation, torch.full(operation.shape, magnitude / 10, dtype=torch.float64), sign)
    expected = [[timm_strength(name, magnitude, s, increasing) for name in OPERATIONS] for s in (1, -1)]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_operations_magnitudes_and_signs_are_drawn_as_timm_draws_them() -> None:
    n = 60_000
    operation, strength = RandAugment(magnitude=9.0, magnitude_std=0.5).draw(n, generator(), CPU)
    assert operation.shape == strength.shape == (2, n)
    counts = torch.bincount(operation.flatten(), minlength=len(OPERATIONS))
    expected = torch.tensor([0.5, *[0.5 / 15] * 15], dtype=torch.float64) * 2 * n
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 0.001
    both = torch.bincount((operation[0] > 0).long() * 2 + (operation[1] > 0).long(), minlength=4)
    assert chisquare(both.numpy()).pvalue > 0.001  # the layers are independent
    angle = strength[operation == INDEX["rotate"]]
    assert chisquare([int((angle > 0).sum()), int((angle < 0).sum())]).pvalue > 0.001
    magnitude = angle.abs() / 3
    inside = magnitude[magnitude < 10]
    assert kstest(inside.numpy(), lambda x: norm.cdf(x, 9, 0.5) / norm.cdf(10, 9, 0.5)).pvalue > 0.001
    clipped = int((magnitude == 10).sum())
    tail = norm.sf(10, 9, 0.5)
    assert chisquare([clipped, len(magnitude) - clipped], [tail * len(magnitude), (1 - tail) * len(magnitude)]).pvalue > 0.001


def test_magnitudes_without_spread_are_one_number() -> None:
    operation, strength = RandAugment(magnitude=5.0, magnitude_std=0.0).draw(1000, generator(), CPU)
    assert set(strength[operation == INDEX["rotate"]].tolist()) == {-15.0, 15.0}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_generator_alone_decides(policy: RandAugment | AutoAugment) -> None:
    images, state = pictures(100, 3, 12, 12), torch.get_rng_state()
    before = images.clone()
    first = policy(images, generator(1))
    assert torch.equal(first, policy(images, generator(1)))
    assert not torch.equal(first, policy(images, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.fixture
def unchecked_signatures() -> Iterator[None]:
    """The checks of shapes would be traced with the policy."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_signatures")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_one_graph_and_never_reads_a_value(policy: RandAugment | AutoAugment) -> None:
    images, layers = pictures(40, 3, 12, 12), policy.draw(40, generator(), CPU)
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x, o, s: policy.apply(x, Layers(o, s)))(images, *layers)
    fixed = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.index.Tensor"}
    assert not fixed & {str(node.target) for node in graph.graph.nodes}
    other = policy.draw(40, generator(9), CPU)
    assert torch.equal(graph(images, *other), policy.apply(images, other))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_ops": 0}, "num_ops"), ({"magnitude": 11.0}, "magnitude"), ({"magnitude_std": -1.0}, "magnitude_std")],
)
def test_errors_name_the_value(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment(**options)  # type: ignore[arg-type]
