"""Transformers that read tokens: padding changes nothing, and every cut of the network gives the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shared import unchecked
from torch import Tensor

from snp_lib.latency import count_macs
from snp_lib.models import create_model
from snp_lib.models.encoder import Encoder
from snp_lib.models.padding import Padding
from snp_lib.models.text import Text

KNOWN, LENGTH = 50, 12


def lively(**options: Any) -> Text:
    """A network whose weights are far from their small initial values, in eval mode."""
    torch.manual_seed(0)
    network = create_model("text_3", num_classes=7, vocabulary=KNOWN, length=LENGTH, embed_dim=32, **options)
    assert isinstance(network, Text)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


@torch.no_grad()
def by_hand(network: Text, words: Tensor) -> Tensor:
    """Logits of one text without padding, in plain words: no mask anywhere."""
    x = network.words(words) + network.positions[0, : len(words)]
    for encoder in network.stack():
        heads, (t, d) = encoder.attention.num_heads, x.shape
        q, k, v = encoder.attention.qkv(F.layer_norm(x, (d,), encoder.norm1.weight, encoder.norm1.bias)).chunk(3, dim=1)
        mha = torch.zeros(t, d)
        for head in range(heads):
            own = slice(head * d // heads, (head + 1) * d // heads)
            mha[:, own] = torch.softmax(q[:, own] @ k[:, own].T / (d // heads) ** 0.5, dim=1) @ v[:, own]
        x = x + encoder.projection(mha)
        x = x + encoder.ff2(F.gelu(encoder.ff1(encoder.norm2(x))))
    x = network.norm(x)
    return network.classifier(torch.softmax(network.pool(x).squeeze(1), dim=0) @ x)


@torch.no_grad()
def test_a_padded_batch_gives_what_every_text_gives_alone() -> None:
    network = lively()
    texts = network.example(9)
    assert texts.shape == (9, LENGTH)
    assert len(network.mask(texts).sum(1).unique()) > 3  # texts of many lengths
    together = network(texts)
    for text, logits in zip(texts, together, strict=True):
        torch.testing.assert_close(by_hand(network, text[text > 0]), logits, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_more_padding_changes_no_bit() -> None:
    """Products never see padding, and every sum over tokens only gains zeros at its end."""
    network = lively()
    texts = network.example(9)[:, :8]
    texts[0] = torch.arange(1, 9)  # the longest needs every column
    wider = F.pad(texts, (0, LENGTH - 8))
    logits, features = network(texts, sites=list(network.sites))
    padded_logits, padded = network(wider, sites=list(network.sites))
    assert torch.equal(logits, padded_logits)
    for site, feature in features.items():
        assert torch.equal(padded[site][:, :8], feature), site
        assert not padded[site][:, 8:].any()


@torch.no_grad()
def test_what_stands_in_other_rows_changes_no_bit() -> None:
    """Of a batch of the same shape and lengths, whatever its other texts say."""
    network, texts = lively(), lively().example(9)
    others = torch.where(texts > 0, 1 + (texts + 7) % (KNOWN - 1), 0)
    others[4] = texts[4]
    assert torch.equal(network(texts)[4], network(others)[4])
    assert not torch.equal(network(texts)[3], network(others)[3])


@torch.no_grad()
def test_sites_are_zero_at_padding_and_only_there() -> None:
    network = lively()
    texts = network.example(5)
    mask, features = network.mask(texts), network(texts, sites=list(network.sites))[1]
    assert list(network.sites) == [f"block{b}{kind}" for b in (1, 2, 3) for kind in (".mha", ".ff_hidden", ".ff", "")]
    for site, feature in features.items():
        assert feature.shape == (5, LENGTH, network.sites[site])
        assert torch.equal(feature.any(dim=2), mask), site


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@torch.no_grad()
def test_the_network_can_be_cut_in_front_of_every_block(block: int) -> None:
    network = lively()
    texts = network.example(6)
    hidden = network.before(texts, block)
    assert torch.equal(hidden.any(dim=2), network.mask(texts))  # the stream itself tells what is padding
    torch.testing.assert_close(network.behind(hidden, block), network(texts))
    twice = network.behind(hidden.repeat(2, 1, 1), block)
    torch.testing.assert_close(twice, network(texts).repeat(2, 1), atol=1e-5, rtol=1e-5)
    if block <= 3:
        mha = network.attention(hidden, block)
        torch.testing.assert_close(network.behind(network.after_attention(hidden, mha, block), block + 1), network(texts))
        other = torch.where(network.mask(texts).unsqueeze(2), mha, 5.0)  # what stands at padding is not read
        assert torch.equal(network.after_attention(hidden, other, block), network.after_attention(hidden, mha, block))


@torch.no_grad()
def test_attention_weights_are_shares_of_the_tokens_that_are_there() -> None:
    network = lively()
    texts = network.example(6)
    weights, mask = network.attention_weights(network.before(texts, 2), 2), network.mask(texts)
    assert weights.shape == (6, 4, LENGTH, LENGTH)
    torch.testing.assert_close(weights.sum(3), mask[:, None].expand(6, 4, LENGTH).float())
    assert not weights.transpose(2, 3)[~mask[:, None].expand(6, 4, LENGTH)].any()


@torch.no_grad()
def test_where_shapes_must_not_hang_on_values_the_same_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, original = lively(), Padding.__init__
    texts = network.example(6)
    expected = network(texts, sites=list(network.sites))

    def everywhere(self: Padding, mask: Tensor) -> None:
        original(self, mask)
        self.rows = None

    monkeypatch.setattr(Padding, "__init__", everywhere)
    logits, features = network(texts, sites=list(network.sites))
    torch.testing.assert_close(logits, expected[0])
    for site, feature in features.items():
        torch.testing.assert_close(feature, expected[1][site])


def test_gradients_reach_every_parameter_and_no_padding() -> None:
    network = lively().train()
    texts = network.example(8)
    network(texts).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert not network.words.weight.grad[0].any()  # type: ignore[index]
    assert network.words.weight.grad[texts[0, 0]].any()  # type: ignore[index]


def test_what_the_network_says_of_itself() -> None:
    network = lively()
    assert (network.num_tokens, network.grid, network.config.ff_dim) == (LENGTH, (1, LENGTH), 64)
    assert set(network.matrices) == {
        f"encoders.{b}.{name}.weight" for b in range(3) for name in ("attention.qkv", "projection", "ff1", "ff2")
    }
    assert set(network.parameters_before(1)) == {"words.weight", "positions"}
    assert count_macs(network) > 0


def test_networks_that_cannot_be_are_refused() -> None:
    network = lively()
    with pytest.raises(ValueError, match="texts of 12 tokens at most, got shape"):
        network(torch.ones(2, LENGTH + 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="token 50 is unknown to a network of 50 tokens"):
        network(torch.full((2, 3), KNOWN))
    with pytest.raises(ValueError, match="num_heads must divide embed_dim"):
        lively(num_heads=5)
    with pytest.raises(ValueError, match="vocabulary must be a positive integer"), unchecked():
        create_model("text_2", num_classes=3, vocabulary=0, length=4)
    with pytest.raises(ValueError, match="dropout must lie in"):
        lively(dropout=1.0)
    with pytest.raises(ValueError, match=r"mlp_ratio 0\.01 leaves no hidden unit"):
        lively(mlp_ratio=0.01)
    with pytest.raises(ValueError, match="stochastic depth drops the update of whole inputs"):
        Encoder(8, 2, 8, drop_path=0.1, padded=True)
