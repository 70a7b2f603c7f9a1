"""The compact transformer against parameter counts, an independent implementation and hand-written forward passes."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from shared import unchecked
from torch import Tensor
from vit_pytorch import cct as public_cct

from snp_lib.latency import count_macs
from snp_lib.models import create_model
from snp_lib.models.cct import CCT, CCTConfig, sinusoidal_table
from snp_lib.models.encoder import sequence_pool
from snp_lib.models.fronts import FORMS, Form
from snp_lib.models.released import translated

Module = TypeVar("Module", bound=torch.nn.Module)
SMALL: dict[str, Any] = {"image_size": 16, "embed_dim": 24, "num_heads": 3, "num_classes": 7}


def small(seed: int = 0, **options: Any) -> CCT:
    torch.manual_seed(seed)
    return lively(create_model("cct_3_3x1", **(SMALL | options))).eval()


@torch.no_grad()
def lively(model: Module) -> Module:
    """Weights and biases far from their small initial values, so that every layer shows in the logits."""
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):  # vit-pytorch's sine table is a fixed one
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def images(n: int = 4, size: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [("cct_7_3x1", {"num_classes": 100}, 3_783_269), ("cct_7_7x2", {"num_classes": 102, "image_size": 224}, 4_573_735)],
)
def test_parameter_counts_of_the_papers(name: str, options: dict[str, int], parameters: int) -> None:
    assert sum(p.numel() for p in create_model(name, **options).parameters()) == parameters


@pytest.mark.parametrize(("kernel_size", "num_convs"), [(3, 1), (3, 2), (7, 1)])
@pytest.mark.parametrize("table", ["learned", "sinusoidal", "none"])
def test_logits_equal_those_of_vit_pytorch(kernel_size: int, num_convs: int, table: str) -> None:
    torch.manual_seed(0)
    public = lively(
        public_cct.CCT(
            img_size=32,
            embedding_dim=24,
            n_conv_layers=num_convs,
            kernel_size=kernel_size,
            stride=max(1, kernel_size // 2 - 1),
            padding=kernel_size // 2,
            num_layers=3,
            num_heads=3,
            mlp_ratio=2.0,
            num_classes=7,
            positional_embedding={"learned": "learnable", "sinusoidal": "sine", "none": "none"}[table],
        )
    ).eval()
    ours = small(image_size=32, kernel_size=kernel_size, num_convs=num_convs, positional_embedding=table)
    weights = translated(public.state_dict())
    if table == "sinusoidal":
        torch.testing.assert_close(ours.positions, weights.pop("positions"), atol=1e-5, rtol=0)
    ours.load_state_dict(weights)
    x = images(size=32)
    torch.testing.assert_close(ours(x), public(x), atol=1e-5, rtol=1e-5)


def forward_by_hand(model: CCT, x: Tensor, *, released: bool) -> Tensor:
    """The whole network in eval mode with explicit softmax attention, residual by residual."""
    cfg = model.config
    x = model.tokenizer(x).flatten(2).transpose(1, 2) + model.positions
    for encoder in model.encoders:
        q, k, v = encoder.attention.qkv(encoder.norm1(x)).chunk(3, dim=-1)
        heads = []
        for h in range(cfg.num_heads):
            own = slice(h * cfg.embed_dim // cfg.num_heads, (h + 1) * cfg.embed_dim // cfg.num_heads)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(cfg.embed_dim / cfg.num_heads)
            heads.append(scores.softmax(-1) @ v[..., own])
        x = x + encoder.projection(torch.cat(heads, -1))
        normed = encoder.norm2(x)
        x = (normed if released else x) + encoder.ff2(F.gelu(encoder.ff1(normed)))
    x = model.norm(x)
    return model.classifier((model.pool(x).softmax(1) * x).sum(1))


@pytest.mark.parametrize("order", ["released", "prenorm"])
def test_logits_equal_a_forward_pass_by_hand(order: str) -> None:
    model, x = small(block_order=order), images()
    torch.testing.assert_close(model(x), forward_by_hand(model, x, released=order == "released"), atol=1e-5, rtol=1e-5)


def test_the_two_block_orders_differ() -> None:
    released, prenorm, x = small(block_order="released"), small(block_order="prenorm"), images()
    prenorm.load_state_dict(released.state_dict())
    assert (released(x) - prenorm(x)).abs().max() > 0.1


def test_every_positional_embedding_is_the_one_asked_for() -> None:
    models = {kind: small(positional_embedding=kind) for kind in ("learned", "sinusoidal", "none")}
    shared = {k: v for k, v in models["learned"].state_dict().items() if k != "positions"}
    for model in models.values():
        model.load_state_dict(shared, strict=False)
    learned, sinusoidal, none = (model(images()) for model in models.values())
    assert min((learned - none).abs().max(), (sinusoidal - none).abs().max(), (learned - sinusoidal).abs().max()) > 0.01
    parameters = {kind: dict(model.named_parameters()) for kind, model in models.items()}
    assert parameters["learned"]["positions"].shape == (1, 64, 24)
    assert "positions" not in parameters["sinusoidal"]
    assert "positions" not in parameters["none"]
    assert not hasattr(models["none"], "positions")


def test_without_positions_the_order_of_tokens_does_not_matter() -> None:
    for kind, matters in (("none", False), ("learned", True), ("sinusoidal", True)):
        model = small(positional_embedding=kind)
        model.tokenizer = torch.nn.Conv2d(3, 24, 1, stride=2)  # one pixel a token: permuting pixels permutes tokens
        x = images()
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        permuted = x.clone()
        permuted[:, :, ::2, ::2] = x[:, :, ::2, ::2].flatten(2)[:, :, order].view(4, 3, 8, 8)
        assert ((model(x) - model(permuted)).abs().max() > 1e-3) == matters, kind


def test_sinusoidal_table_is_the_formula() -> None:
    table = sinusoidal_table(50, 8)[0]
    for t in (0, 1, 49):
        for i in range(8):
            angle = t / 10_000 ** (2 * (i // 2) / 8)
            assert table[t, i] == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-5)
    assert sinusoidal_table(5, 7).shape == (1, 5, 7)


def test_sequence_pool_is_a_weighted_mean() -> None:
    x, weight, bias = torch.randn(2, 5, 3), torch.randn(1, 3), torch.randn(1)
    expected = []
    for image in x:
        scores = torch.stack([token @ weight[0] + bias[0] for token in image])
        share = scores.exp() / scores.exp().sum()
        expected.append(sum(s * token for s, token in zip(share, image, strict=True)))
    torch.testing.assert_close(sequence_pool(x, weight, bias), torch.stack(expected))


def test_sites_have_the_promised_names_order_and_shapes() -> None:
    model = small()
    assert model.sites == {f"block{b}{kind}": w for b in (1, 2, 3) for kind, w in ((".mha", 24), (".ff_hidden", 48), (".ff", 24), ("", 24))}
    assert list(model.sites)[:5] == ["block1.mha", "block1.ff_hidden", "block1.ff", "block1", "block2.mha"]
    logits, features = model(images(), sites=list(model.sites))
    assert list(features) == list(model.sites)
    assert {site: tuple(f.shape) for site, f in features.items()} == {site: (4, 64, w) for site, w in model.sites.items()}
    torch.testing.assert_close(logits, model(images()), rtol=0, atol=0)


def test_a_subset_of_sites_gives_the_same_features_and_no_site_gives_none() -> None:
    model = small()
    _, everything = model(images(), sites=list(model.sites))
    _, some = model(images(), sites=["block3", "block1.ff"])
    assert set(some) == {"block3", "block1.ff"}
    assert all(torch.equal(some[site], everything[site]) for site in some)
    assert model(images(), sites=[])[1] == {}


def test_sites_are_what_the_next_layer_reads() -> None:
    model = small()
    _, f = model(images(), sites=list(model.sites))
    second = model.encoders[1]
    stream = f["block1"] + second.projection(f["block2.mha"])
    torch.testing.assert_close(f["block2.ff_hidden"], F.gelu(second.ff1(second.norm2(stream))))
    torch.testing.assert_close(f["block2.ff"], second.ff2(f["block2.ff_hidden"]))
    torch.testing.assert_close(f["block2"], second.norm2(stream) + f["block2.ff"])


def test_dropout_and_stochastic_depth_act_only_while_training() -> None:
    x = images(64)
    for option in ("dropout", "attention_dropout", "stochastic_depth"):
        off = {"dropout": 0.0, "attention_dropout": 0.0, "stochastic_depth": 0.0}
        model = small(**(off | {option: 0.5}))
        assert torch.equal(model(x), model(x)), option
        model.train()
        assert not torch.equal(model(x), model(x)), option
        still = small(**off).train()
        assert torch.equal(still(x), still(x))


def test_stochastic_depth_drops_whole_updates_and_grows_along_the_encoders() -> None:
    model = small(stochastic_depth=0.4).train()
    assert [encoder.drop_path for encoder in model.encoders] == pytest.approx([0.0, 0.2, 0.4])
    kept = model.encoders[2].residual(torch.ones(4000, 2, 3))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept))
    assert kept.mean() == pytest.approx(1, abs=4 * math.sqrt(0.4 / 0.6 / 4000))


@settings(max_examples=60)
@given(
    name=st.builds("cct_{}_{}x{}".format, st.sampled_from((1, 2, 3)), st.sampled_from((1, 2, 3, 5, 7)), st.integers(1, 3)),
    image_size=st.integers(1, 40),
    conv_stride=st.sampled_from((None, 1, 2)),
)
def test_the_token_grid_is_the_one_announced(name: str, image_size: int, conv_stride: int | None) -> None:
    try:
        options = SMALL | {"image_size": image_size, "conv_stride": conv_stride, "depth": 1, "conv_channels": 2}
        model = create_model(name, **options).eval()
    except ValueError as error:
        assert "no token" in str(error)  # noqa: PT017 - only where no token is left
        return
    grid = model.tokenizer(torch.zeros(1, 3, image_size, image_size))
    assert grid.shape[2:] == (model.config.grid_size,) * 2
    assert model(torch.zeros(1, 3, image_size, image_size)).shape == (1, 7)


@pytest.mark.parametrize("name", ["cct_7", "cct_0_3x1", "vgg19", "cct_7_3x0", "CCT_7_3x1", "cct_7_3x1_sine"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        create_model(name, num_classes=10)


def test_unknown_options_are_type_errors() -> None:
    with pytest.raises(TypeError, match="positional_embeding"):
        create_model("cct_7_3x1", num_classes=10, positional_embeding="sinusoidal")


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_heads": 5},
        {"embed_dim": 0},
        {"depth": -1},
        {"conv_stride": 0},
        {"mlp_ratio": 0.01},
        {"dropout": 1.0},
        {"attention_dropout": -0.1},
        {"stochastic_depth": 1.5},
        {"image_size": 0},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(**wrong)


@pytest.mark.parametrize("field", ["block_order", "positional_embedding"])
def test_unknown_choices_are_refused(field: str) -> None:
    complete = {"num_classes": 7, "depth": 1, "kernel_size": 3, "num_convs": 1, "embed_dim": 8, "num_heads": 2, "mlp_ratio": 1.0}
    with unchecked(), pytest.raises(ValueError, match=field):  # else beartype would be faster than the library
        CCTConfig(**complete, **{field: "sine"})


def test_wrong_calls_are_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="unknown site 'block9'"):
        model(images(), sites=["block9"])
    with pytest.raises(ValueError, match="expected images of 16 pixels"):
        model(images(size=20))


def by_hand(form: str, tokens: Tensor, weights: list[Tensor]) -> Tensor:
    """One layer of a front, normalised by the statistics of fresh batch norms: 0 and 1, with their ε."""
    n, t, d = tokens.shape
    side = math.isqrt(t)
    grid = torch.stack([tokens[:, i].reshape(n, d) for i in range(t)], dim=-1).reshape(n, d, side, side)

    def normal(x: Tensor) -> Tensor:
        return F.gelu(x / math.sqrt(1 + 1e-5))

    if form == "full":
        grid = normal(F.conv2d(grid, weights[0], padding=1))
    elif form == "narrow":
        grid = normal(F.conv2d(normal(F.conv2d(normal(F.conv2d(grid, weights[0])), weights[1], padding=1)), weights[2]))
    else:
        grid = normal(F.conv2d(F.conv2d(grid, weights[0], padding=1, groups=d), weights[1]))
    return torch.stack([grid[:, :, i // side, i % side] for i in range(t)], dim=1)


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_convolutions_stand_between_the_positions_and_the_first_encoder(form: Form, shortcut: bool) -> None:
    model, plain = small(front=form, front_layers=2, front_shortcut=shortcut), small()
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if not name.startswith("front.")})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    x = images()
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)][1:]  # the first is the tokeniser's
    with torch.no_grad():
        tokens = plain.embed(x)
        for layer in (weights[: len(weights) // 2], weights[len(weights) // 2 :]):
            tokens = by_hand(form, tokens, layer) + (tokens if shortcut else 0)
        torch.testing.assert_close(model.embed(x), tokens)
        torch.testing.assert_close(model(x), plain.behind(tokens, 1))
        torch.testing.assert_close(model.behind(model.before(x, 2), 2), model(x))
    assert list(model.sites) == list(plain.sites)


def test_what_a_front_costs() -> None:
    """Figures of the module's docstring, in millions of multiply-accumulates of CCT-7/3x1."""

    def cost(**options: Any) -> float:
        return count_macs(create_model("cct_7_3x1", num_classes=100, **options)) / 1e6

    whole, width = cost(), 256
    encoder = whole - cost(depth=6)
    assert encoder == pytest.approx(168, abs=0.5)
    assert cost(front="full") - whole == pytest.approx(256 * 9 * width * width / 1e6)
    assert cost(front="full") - whole == pytest.approx(151, abs=0.5)
    assert cost(front="narrow", front_layers=2) - whole == pytest.approx(2 * 256 * (2 * width * 64 + 9 * 64 * 64) / 1e6)
    assert cost(front="separable", front_layers=3) - whole == pytest.approx(3 * 256 * (9 * width + width * width) / 1e6)


def test_fronts_that_make_no_sense_are_refused() -> None:
    with unchecked(), pytest.raises(ValueError, match="front must be one of full, narrow, separable, got 'deep'"):
        small(front="deep")
    with pytest.raises(ValueError, match="front_layers must be at least 1"):
        small(front="full", front_layers=0)
    with pytest.raises(ValueError, match="a width that 4 divides, got 27"):
        small(front="narrow", embed_dim=27)
