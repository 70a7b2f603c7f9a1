"""Convolutions on the token grid in place of the first encoders (paper B, abstract: "convolutional layers first").

The layers follow the group's own code for text, n × [3×3 convolution, batch normalisation, GELU]; the narrow and the
separable form are ours. One full 3×3 convolution of 256 channels on 16×16 tokens costs 151 million multiply-accumulates
and one encoder 168 million, so that only fewer, narrower or separable ones save anything.
"""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

Form = Literal["full", "narrow", "separable"]
FORMS: tuple[Form, ...] = get_args(Form)
NARROW = 4  # the narrow form squeezes to a quarter of the width


class Front(nn.Module):
    """A stack of convolutions on square grids of tokens: (N, T, d) to (N, T, d).

    - ``full``: 3×3 from d to d channels.
    - ``narrow``: 1×1 to d/4, 3×3 there, 1×1 back to d.
    - ``separable``: 3×3 within every channel, then 1×1 from d to d.

    Each convolution but the depthwise one is followed by batch normalisation and GELU.

    Args:
        shortcut: add each layer's input to its output, as the residual stream of an encoder does.

    Raises:
        ValueError: unknown form, no layer, or a width that four does not divide.
    """

    def __init__(self, form: Form, layers: int, width: int, *, shortcut: bool = False) -> None:
        super().__init__()
        self.shortcut = shortcut
        if form not in FORMS:
            raise ValueError(f"front must be one of {', '.join(FORMS)}, got {form!r}")
        if layers < 1:
            raise ValueError(f"front_layers must be at least 1, got {layers}")
        if form == "narrow" and width % NARROW:
            raise ValueError(f"a narrow front needs a width that {NARROW} divides, got {width}")
        self.layers = nn.ModuleList(nn.Sequential(*_layer(form, width)) for _ in range(layers))

    def forward(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        n, t, d = tokens.shape
        side = round(t**0.5)
        grid = tokens.transpose(1, 2).reshape(n, d, side, side)
        for layer in self.layers:
            grid = grid + layer(grid) if self.shortcut else layer(grid)
        return grid.flatten(2).transpose(1, 2)


def _layer(form: Form, width: int) -> list[nn.Module]:
    if form == "full":
        return _convolution(width, width, 3)
    if form == "narrow":
        inner = width // NARROW
        return [*_convolution(width, inner, 1), *_convolution(inner, inner, 3), *_convolution(inner, width, 1)]
    return [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), *_convolution(width, width, 1)]


def _convolution(inputs: int, outputs: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]
