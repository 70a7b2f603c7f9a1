"""The transformer encoder and its attention, which networks share (Hassani et al., arXiv:2104.05704, released code)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from snp_lib.models import narrow
from snp_lib.models.padding import Padding, masked
from snp_lib.models.sites import HeadAxis, Layer, Network, ResidualUnit, unchanged

BlockOrder = Literal["released", "prenorm"]


class Attention(nn.Module):
    """Multi-head self-attention, up to and without the output projection: tokens (N, T, d) to head outputs (N, T, d).

    Head h owns the channels h·d/H … (h+1)·d/H of the output.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: Float[Tensor, "n t d"], padding: Padding | None = None) -> Float[Tensor, "n t d"]:
        """Attention among the tokens that are there; the outputs at all others are zero."""
        n, t, d = x.shape
        mixed = self.qkv(x) if padding is None else padding.put(self.qkv(padding.take(x)))
        qkv = mixed.view(n, t, 3, self.num_heads, d // self.num_heads)
        dropout = self.dropout if self.training else 0.0
        if padding is None and not dropout and narrow.serves(qkv):
            return narrow.narrow_attention(qkv)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, H, T, d/H)
        mask = None if padding is None else padding.mask
        outputs = attend(q, k, v, dropout=dropout, mask=mask).transpose(1, 2).reshape(n, t, d)
        return outputs if mask is None else outputs * mask.unsqueeze(2)

    def weights(self, x: Float[Tensor, "n t d"], padding: Padding | None = None) -> Float[Tensor, "n h t t"]:
        """The attention weights of every head, in float32: row q of a head's matrix is the share of every token in its output at q.

        Rows and columns of tokens that are not there are zero.
        """
        mask = None if padding is None else padding.mask
        n, t, d = x.shape
        q, k, _ = self.qkv(x).view(n, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        with torch.autocast(x.device.type, enabled=False):
            weights: Tensor = attention_weights(q.float(), k.float(), mask)
        return weights if mask is None else weights * mask[:, None, :, None]


def attend(
    q: Float[Tensor, "n h t w"],
    k: Float[Tensor, "n h t w"],
    v: Float[Tensor, "n h t w"],
    *,
    dropout: float = 0.0,
    mask: Bool[Tensor, "n t"] | None = None,
) -> Float[Tensor, "n h t w"]:
    """Scaled dot-product attention of every head to the keys of ``mask``, softmax(q·kᵀ/√w)·v, with dropout of the attention weights."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        # torch's fused CPU kernel spends more than half of a bfloat16 training step in its backward pass
        return F.dropout(attention_weights(q, k, mask), dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :], dropout_p=dropout)


def attention_weights(
    q: Float[Tensor, "n h t w"], k: Float[Tensor, "n h t w"], mask: Bool[Tensor, "n t"] | None = None
) -> Float[Tensor, "n h t t"]:
    """What every query takes of every key: softmax(q·kᵀ/√w), whose rows sum to one (Vaswani et al. 2017, section 3.2.1).

    Keys outside of ``mask`` count as −∞ before the softmax.
    """
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if mask is None else scores.masked_fill(~mask[:, None, None, :], -torch.inf)).softmax(-1)


class Encoder(nn.Module):
    """One transformer encoder. ``forward`` returns the features of its four sites; the last is its output.

    ``released``: the second residual starts from the normalised stream, as in the code behind the published numbers.
    ``prenorm``: both residuals start from the stream itself.

    Args:
        width: d, of the tokens.
        ff_dim: width of the hidden feed-forward layer.
        dropout: rate after both sub-layers and the hidden layer.
        attention_dropout: rate of the attention weights.
        drop_path: rate at which the update of a whole input is dropped (stochastic depth).
        padded: tokens that are vectors of zeros are not there, see :class:`snp_lib.models.padding.Padding`; all sites are zero at them.

    Raises:
        ValueError: stochastic depth in a padded stream, whose inputs are not told apart.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        ff_dim: int,
        *,
        block_order: BlockOrder = "released",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        padded: bool = False,
    ) -> None:
        super().__init__()
        if padded and drop_path:
            raise ValueError("stochastic depth drops the update of whole inputs, which a padded stream does not tell apart: set it to 0")
        self.padded = padded
        self.released = block_order == "released"
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, attention_dropout)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.ff1 = nn.Linear(width, ff_dim)
        self.ff2 = nn.Linear(ff_dim, width)
        self.dropout = nn.Dropout(dropout)

    def residual(self, update: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Stochastic depth: drop the update of whole inputs, scale the kept ones."""
        if not self.training or self.drop_path == 0:
            return update
        keep = 1 - self.drop_path
        return update * update.new_empty(update.shape[0], 1, 1).bernoulli_(keep).div_(keep)

    def forward(self, x: Float[Tensor, "n t d"]) -> dict[str, Tensor]:
        return self.after_attention(x, self.heads(x))

    def advance(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """The encoder's input to its output, without the other sites: a compiler keeps nothing for them."""
        mha, padding = self.heads(x), self._padding(x)
        if padding is None:
            return self._token_by_token(x, mha)["block"]
        return padding.put(self._token_by_token(padding.take(x), padding.take(mha))["block"])

    def heads(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """The encoder's input to the outputs of its heads, side by side."""
        outputs: Tensor = self.attention(normalized(x, self.norm1), self._padding(x))
        return outputs

    def attention_weights(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n h t t"]:
        """The encoder's input to the attention weights of its heads."""
        weights: Tensor = self.attention.weights(normalized(x, self.norm1), self._padding(x))
        return weights

    def attend_branch(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """What the attention adds to the encoder's input, without drop-out of any kind."""
        added: Tensor = self.projection(self.heads(x))
        return added

    def feed_branch(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """What the feed-forward layers add, from the stream behind the attention, without drop-out of any kind."""
        added: Tensor = self.ff2(F.gelu(self.ff1(normalized(x, self.norm2))))
        return added

    def units(self, block: int) -> list[ResidualUnit]:
        """Its two additions to the stream, as block of this number."""
        skip = partial(normalized, norm=self.norm2) if self.released else unchanged
        return [
            ResidualUnit(block=block, kind="attention", branch=self.attend_branch),
            ResidualUnit(block=block, kind="feed-forward", branch=self.feed_branch, skip=skip),
        ]

    def after_attention(self, x: Float[Tensor, "n t d"], mha: Float[Tensor, "n t d"]) -> dict[str, Tensor]:
        """The rest of ``forward``, from the encoder's input and its head outputs, which may have been changed."""
        padding = self._padding(x)
        if padding is None:
            return {"mha": mha} | self._token_by_token(x, mha)
        outputs = self._token_by_token(padding.take(x), padding.take(mha))
        return {"mha": mha} | {kind: padding.put(output) for kind, output in outputs.items()}

    def _padding(self, x: Float[Tensor, "n t d"]) -> Padding | None:
        return Padding(x.any(dim=2)) if self.padded else None

    def _token_by_token(self, x: Float[Tensor, "n t d"], mha: Float[Tensor, "n t d"]) -> dict[str, Tensor]:
        x = x + self.residual(self.dropout(self.projection(mha)))
        normed = normalized(x, self.norm2)
        ff_hidden = F.gelu(self.ff1(normed))
        ff = self.ff2(self.dropout(ff_hidden))
        x = (normed if self.released else x) + self.residual(self.dropout(ff))
        return {"ff_hidden": ff_hidden, "ff": ff, "block": x}


def normalized(x: Float[Tensor, "n t d"], norm: nn.LayerNorm) -> Float[Tensor, "n t d"]:
    """Layer normalisation, in float32 where the stream is in bfloat16."""
    normed: Tensor = norm(x.float()).to(x.dtype) if x.dtype == torch.bfloat16 else norm(x)
    return normed


def sequence_pool(
    x: Float[Tensor, "n t d"],
    weight: Float[Tensor, "1 d"],
    bias: Float[Tensor, " 1"] | None = None,
    mask: Bool[Tensor, "n t"] | None = None,
) -> Float[Tensor, "n d"]:
    """Mean of the tokens weighted by the softmax, over tokens, of one linear score each (CCT, section 3.2).

    Tokens outside of ``mask`` have the score −∞.
    """
    if x.dtype == torch.bfloat16:  # as sums, which a compiler joins with what stands before them
        scores = (x.float() * weight.float()).sum(2) + (0 if bias is None else bias.float())
        return (x.float() * masked(scores, mask).softmax(1).unsqueeze(2)).sum(1).to(x.dtype)
    attention = masked(F.linear(x, weight, bias).squeeze(-1), mask).softmax(dim=1)  # (N, T)
    return torch.bmm(attention.unsqueeze(1), x).squeeze(1)


class Transformer(Network):
    """A network of ``encoders`` between ``embed`` and ``classify``, whose last layer is ``classifier``: what all of them share.

    Sites of encoder b, counted from 1 (defined here): ``block{b}.mha``, the concatenated head outputs before the
    output projection; ``block{b}.ff_hidden``, after the GELU; ``block{b}.ff``, the output of the second linear layer;
    ``block{b}``, the residual stream after the encoder.
    """

    encoders: nn.ModuleList  # of Encoder
    embedding: tuple[str, ...]  # how the names of the parameters begin that ``embed`` needs

    @property
    def num_tokens(self) -> int:
        """Tokens of one input."""
        raise NotImplementedError

    def embed(self, x: Tensor) -> Float[Tensor, "n t d"]:
        """Inputs to the tokens that the first encoder reads."""
        raise NotImplementedError

    def classify(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n k"]:
        """Output of the last encoder to logits."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int]:
        """One row, as words stand; a network of images says better."""
        return 1, self.num_tokens

    def stack(self) -> list[Encoder]:
        """The encoders, first to last."""
        return cast(list[Encoder], list(self.encoders))

    @property
    def sites(self) -> dict[str, int]:
        out: dict[str, int] = {}
        for b, encoder in enumerate(self.stack(), start=1):
            width, hidden = encoder.projection.out_features, encoder.ff1.out_features  # fewer than ff_dim where units were removed
            out |= {f"block{b}.mha": width, f"block{b}.ff_hidden": hidden, f"block{b}.ff": width, f"block{b}": width}
        return out

    @property
    def matrices(self) -> dict[str, int]:
        """All of the encoders, queries, keys and values apart."""
        weights = {name: p for name, p in self.named_parameters() if name.startswith("encoders.") and p.ndim == 2}
        return {name: 3 if name.endswith(".qkv.weight") else 1 for name in weights}

    @property
    def head_axes(self) -> dict[str, HeadAxis]:
        """Rows of queries, keys and values of every encoder, and the columns of the output projection that read a head."""
        out: dict[str, HeadAxis] = {}
        for b, encoder in enumerate(self.stack(), start=1):
            name, heads = f"encoders.{b - 1}", encoder.attention.num_heads
            out[f"{name}.attention.qkv.weight"] = HeadAxis(block=b, heads=heads, axis=0, parts=("query", "key", "value"))
            out[f"{name}.projection.weight"] = HeadAxis(block=b, heads=heads, axis=1, parts=("output",))
        return out

    @property
    def residual_units(self) -> list[ResidualUnit]:
        """Attention and feed-forward layers of every encoder; of the block order ``released`` the latter add to the normalised stream."""
        return [unit for b, encoder in enumerate(self.stack(), start=1) for unit in encoder.units(b)]

    @property
    def parts(self) -> list[tuple[nn.Module, str]]:
        """Every encoder, what comes before the first and what behind the last."""
        return [(self, "embed"), *((encoder, "advance") for encoder in self.encoders), (self, "classify")]

    @property
    def layers(self) -> dict[str, Layer]:
        """``ff1`` and ``ff2`` of every encoder, and the classifier.

        The nodes of ``ff1`` of encoder b (its input, the normalised stream, is no measured site) take the sets of the same
        channels of ``block{b}``, the residual stream after the encoder (defined here): with the block order ``released`` it
        is that input plus the output of ``ff2``, while ``block{b-1}`` lacks the update by the attention and the norm; and it
        exists for the first encoder too. On the digits (three encoders, two seeds, θ = 0.3, training split) the mean Jaccard
        index with the sets of a readout on the input itself was 0.50 to 0.71 for ``block{b}``, 0.23 to 0.62 for the stream
        before the encoder, and 0.25 to 0.35 by chance. The classifier's nodes are the residual stream after the last
        encoder, whose channels the norm and the pooling before the classifier keep apart.
        """
        out, places = {}, self.num_tokens
        for b in range(1, len(self.encoders) + 1):
            block, hidden, ff = f"block{b}", f"block{b}.ff_hidden", f"block{b}.ff"
            out[f"encoders.{b - 1}.ff1.weight"] = Layer(inputs=block, outputs=hidden, block=b, places=places, activation=F.gelu)
            out[f"encoders.{b - 1}.ff2.weight"] = Layer(inputs=hidden, outputs=ff, block=b, places=places)
        return out | {"classifier.weight": Layer(inputs=f"block{len(self.encoders)}", outputs=None, block=None, places=1)}

    def compute(self, x: Tensor, wanted: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        features: dict[str, Tensor] = {}
        if not wanted:
            return self.behind(self.before(x, 1), 1), features
        tokens = self.embed(x)
        for b, encoder in enumerate(self.encoders, start=1):
            out = encoder(tokens)
            tokens = out["block"]
            for kind, feature in out.items():
                name = f"block{b}" if kind == "block" else f"block{b}.{kind}"
                if name in wanted:
                    features[name] = feature
        return self.classify(tokens), features

    def before(self, x: Tensor, block: int) -> Float[Tensor, "n t d"]:
        tokens = self.embed(x)
        for earlier in self.stack()[: block - 1]:
            tokens = earlier.advance(tokens)
        return tokens

    def behind(self, hidden: Float[Tensor, "n t d"], block: int) -> Float[Tensor, "n k"]:
        for later in self.stack()[block - 1 :]:
            hidden = later.advance(hidden)
        return self.classify(hidden)

    def parameters_before(self, block: int) -> dict[str, Tensor]:
        names = (*self.embedding, *(f"encoders.{b}." for b in range(block - 1)))
        return {name: parameter for name, parameter in self.named_parameters() if name.startswith(names)}

    def attention(self, hidden: Float[Tensor, "n t d"], block: int) -> Float[Tensor, "n t d"]:
        return self.stack()[block - 1].heads(hidden)

    def after_attention(self, hidden: Float[Tensor, "n t d"], mha: Float[Tensor, "n t d"], block: int) -> Float[Tensor, "n t d"]:
        return self.stack()[block - 1].after_attention(hidden, mha)["block"]

    def attention_weights(self, hidden: Float[Tensor, "n t d"], block: int) -> Float[Tensor, "n h t t"]:
        return self.stack()[block - 1].attention_weights(hidden)
