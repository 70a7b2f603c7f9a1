"""Transformers that read tokens, such as words or characters: the encoders of the library behind an embedding (defined here).

No convolutions stand in front, since texts of ten words would shrink to five: the tokens are the words themselves. Encoders are
pre-norm, and sequence pooling is that of the compact transformer (Hassani et al., arXiv:2104.05704, section 3.2). Token 0 is
padding. It never enters an attention or a pooling, and every site is zero there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from snp_lib.models.encoder import Encoder, Transformer, normalized, sequence_pool
from snp_lib.models.padding import Padding
from snp_lib.models.sites import Family, require_positive, require_shares

PAD = 0
"""The token that fills a text up to the common length."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Shape of a transformer that reads tokens. Widths in channels, ``length`` in tokens, rates in [0, 1).

    Raises:
        ValueError: a size is not positive, the heads do not divide the width, or a rate is out of range.
    """

    num_classes: int
    depth: int  # L: transformer encoders
    vocabulary: int  # tokens that there are, padding among them
    length: int  # T: tokens of the longest text
    embed_dim: int = 128
    num_heads: int = 4
    mlp_ratio: float = 2.0  # width of the hidden feed-forward layer over embed_dim
    embedding_dropout: float = 0.2
    dropout: float = 0.1
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "depth", "vocabulary", "length", "embed_dim", "num_heads")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads must divide embed_dim: {self.num_heads} heads, width {self.embed_dim}")
        if self.ff_dim < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves no hidden unit at width {self.embed_dim}")
        require_shares(self, "embedding_dropout", "dropout", "attention_dropout")

    @property
    def ff_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)


class Text(Transformer):
    """Tokens (N, T) as int64, 0 for padding, to logits (N, num_classes). A text without any token has no logits but NaN."""

    embedding = ("words.", "positions")

    def __init__(self, cfg: TextConfig) -> None:
        super().__init__()
        self.config = cfg
        self.words = nn.Embedding(cfg.vocabulary, cfg.embed_dim)
        self.positions = nn.Parameter(torch.empty(1, cfg.length, cfg.embed_dim))
        self.dropout = nn.Dropout(cfg.embedding_dropout)
        self.encoders = nn.ModuleList(
            Encoder(
                cfg.embed_dim,
                cfg.num_heads,
                cfg.ff_dim,
                block_order="prenorm",
                dropout=cfg.dropout,
                attention_dropout=cfg.attention_dropout,
                padded=True,
            )
            for _ in range(cfg.depth)
        )
        self.norm = nn.LayerNorm(cfg.embed_dim)
        self.pool = nn.Linear(cfg.embed_dim, 1)
        self.classifier = nn.Linear(cfg.embed_dim, cfg.num_classes)
        for parameter in self.parameters():  # 0.02 as in the compact transformer, for embeddings too
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def num_tokens(self) -> int:
        length: int = self.config.length
        return length

    def mask(self, x: Int64[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
        return x != PAD

    def embed(self, x: Int64[Tensor, "n t"]) -> Float[Tensor, "n t d"]:
        """Tokens to their vectors with positions added, zeros at padding.

        Raises:
            ValueError: more tokens in a text than the network has positions, or a token that its vocabulary has not.
        """
        if x.shape[1] > self.config.length:
            raise ValueError(f"expected texts of {self.config.length} tokens at most, got shape {tuple(x.shape)}")
        try:
            embedded: Tensor = self.words(x) + self.positions[:, : x.shape[1]]
        except IndexError as error:
            known = self.config.vocabulary
            raise ValueError(f"token {int(x.max())} is unknown to a network of {known} tokens: another vocabulary made it") from error
        padding = Padding(self.mask(x))
        return padding.put(self.dropout(padding.take(embedded)))

    def classify(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n k"]:
        """Output of the last encoder to logits: norm, sequence pooling of the tokens that are there, classifier."""
        pooled = sequence_pool(normalized(tokens, self.norm), self.pool.weight, self.pool.bias, tokens.any(dim=2))
        logits: Tensor = self.classifier(pooled)
        return logits

    def example(self, batch: int) -> Int64[Tensor, "n t"]:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, max(2, self.config.vocabulary), (batch, self.config.length), generator=generator)
        lengths = torch.randint(1, self.config.length + 1, (batch, 1), generator=generator)
        return tokens * (torch.arange(self.config.length) < lengths)


FAMILY = Family(
    pattern=re.compile(r"text_([1-9]\d*)"),
    parts=("depth",),
    config=TextConfig,
    network=Text,
    hint="text_4 (encoders, on words)",
)
