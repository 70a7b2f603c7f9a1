"""The operations of augmentation policies on whole batches: each image its own operation and its own strength.

``torchvision.transforms.functional`` on uint8 tensors is the definition of every operation. A batch costs one affine
sample, one table lookup and one blend, whatever its images drew: an image takes the identity in the stages it does not need.
No step waits for the device or has a shape that depends on the values, so a policy compiles into one graph.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

Interpolation = Literal["nearest", "bilinear"]


# name: the unit of its strength
UNITS = {
    "identity": "unused",
    "rotate": "degrees anticlockwise about the centre",
    "shear_x": "pixels read to the right per pixel down, from the top left corner",
    "shear_y": "pixels read down per pixel to the right, from the top left corner",
    "translate_x": "pixels to the right, fractions allowed",
    "translate_y": "pixels down, fractions allowed",
    "autocontrast": "unused",
    "equalize": "unused",
    "invert": "unused",
    "posterize": "whole number of bits kept, 0 to 8",
    "solarize": "grey level from which levels are inverted",
    "solarize_add": "whole number of grey levels added below 128",
    "brightness": "factor, 1 is the image and 0 is black",
    "contrast": "factor, 1 is the image and 0 is its mean grey",
    "color": "factor, 1 is the image and 0 is grey",
    "sharpness": "factor, 1 is the image and 0 is smoothed",
}

OPERATIONS = tuple(UNITS)

INDEX = {name: index for index, name in enumerate(OPERATIONS)}


def apply(
    images: UInt8[Tensor, "n c h w"],
    operation: Int64[Tensor, " n"],
    strength: Float64[Tensor, " n"],
    *,
    fill: tuple[float, ...] = (0.0,),
    interpolation: Interpolation = "nearest",
) -> UInt8[Tensor, "n c h w"]:
    """Apply to each image the operation of its index into ``OPERATIONS``, with its strength in the unit of ``UNITS``.

    ``solarize_add`` is timm's (torchvision has none); ``color`` leaves grey images as they are, as in torchvision.

    Args:
        images: of 1 or 3 channels.
        strength: in double precision, as the Python numbers torchvision takes: the images then agree to the last level.
        fill: grey level of the pixels that come from outside, one for all channels or one per channel.
        interpolation: of the geometric operations.

    Raises:
        ValueError: neither 1 nor 3 channels, a fill that does not match them, or another interpolation.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {channels}")
    if len(fill) not in (1, channels):
        raise ValueError(f"fill must hold 1 or {channels} grey levels, got {len(fill)}")
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f'interpolation must be "nearest" or "bilinear", got {interpolation!r}')
    images = sample(images, inverse_affine(operation, strength, *images.shape[-2:]), fill, interpolation)
    grey = luma(images)
    looked_up = lookup(images, tables(images, grey, operation, strength))
    # an image has one operation: where the blend acts, the tables were the identity, so grey still fits
    return blend(looked_up, grey, operation, strength)


def inverse_affine(operation: Int64[Tensor, " n"], strength: Float64[Tensor, " n"], height: int, width: int) -> Float32[Tensor, "n 2 3"]:
    """Matrix from the place (x, y, 1) of an output pixel to the place it is read from, in pixels from the image's centre."""
    zero = torch.zeros_like(strength)

    def of(name: str) -> Float64[Tensor, " n"]:
        return torch.where(operation == INDEX[name], strength, zero)

    angle, shear_x, shear_y = torch.deg2rad(of("rotate")), of("shear_x"), of("shear_y")
    cos, sin = angle.cos(), angle.sin()
    # at most one of the strengths is not zero, so the sums only select
    first = [cos, shear_x - sin, shear_x * (height / 2) - of("translate_x")]
    second = [shear_y + sin, cos, shear_y * (width / 2) - of("translate_y")]
    return torch.stack(first + second, 1).view(-1, 2, 3).float()


def sample(
    images: UInt8[Tensor, "n c h w"], matrices: Float32[Tensor, "n 2 3"], fill: tuple[float, ...], interpolation: Interpolation
) -> UInt8[Tensor, "n c h w"]:
    """Read every output pixel from the place its image's inverse matrix gives.

    As in torchvision, a bilinear pixel that reads a share m of its weight from inside becomes m·(what was read) + (1 − m)·fill.
    """
    n, _, h, w = images.shape
    device = images.device
    x = torch.arange(w, device=device, dtype=torch.float32) - (w - 1) / 2
    y = torch.arange(h, device=device, dtype=torch.float32) - (h - 1) / 2
    half = torch.stack([torch.full((), side / 2, device=device) for side in (w, h)])
    scaled = matrices / half.view(1, 2, 1)
    base = torch.stack([x.expand(h, w), y.view(h, 1).expand(h, w), torch.ones(h, w, device=device)], -1).view(1, h * w, 3)
    grid = base.expand(n, -1, -1).bmm(scaled.transpose(1, 2)).view(n, h, w, 2)
    inside = torch.ones(n, 1, h, w, device=device)
    read = F.grid_sample(torch.cat([images.float(), inside], 1), grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    colour, share = read[:, :-1], read[:, -1:]
    background = torch.stack([torch.full((), level, device=device) for level in fill]).view(1, -1, 1, 1)
    filled = torch.where(share < 0.5, background, colour) if interpolation == "nearest" else colour * share + (1 - share) * background
    return filled.round().to(torch.uint8)


def luma(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n 1 h w"]:
    """Grey image, rounded down (ITU-R BT.601 weights, as torchvision's ``rgb_to_grayscale``)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    mixed: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return mixed.to(torch.uint8)


def tables(
    images: UInt8[Tensor, "n c h w"], grey: UInt8[Tensor, "n 1 h w"], operation: Int64[Tensor, " n"], strength: Float64[Tensor, " n"]
) -> UInt8[Tensor, "n c 256"]:
    """New grey level of each old one, per image and channel; the identity for operations that are no function of the level."""
    levels = torch.arange(256, device=images.device, dtype=torch.float32)
    kind = operation.view(-1, 1, 1)
    amount = strength.view(-1, 1, 1)

    # operations that treat all channels and images alike
    inverted = 255 - levels
    table = torch.where(kind == INDEX["invert"], inverted, levels)
    dropped = torch.exp2(8 - torch.where(kind == INDEX["posterize"], amount, 8)).float()
    table = torch.where(kind == INDEX["posterize"], (levels / dropped).floor() * dropped, table)
    table = torch.where((kind == INDEX["solarize"]) & (levels >= amount), inverted, table)
    added = (levels + amount.float()).clamp(0, 255)
    table = torch.where((kind == INDEX["solarize_add"]) & (levels < 128), added, table)

    # blends with black and with the mean grey
    mixes = (kind == INDEX["brightness"]) | (kind == INDEX["contrast"])
    ratio = torch.where(mixes, amount, 1)
    mean = torch.where(kind == INDEX["contrast"], grey.float().mean((1, 2, 3)).view(-1, 1, 1), 0.0)
    blended = (ratio.float() * levels + (1 - ratio).float() * mean).clamp(0, 255)
    table = torch.where(mixes, blended, table)

    # operations on the histogram of each channel
    table = torch.where(kind == INDEX["autocontrast"], stretched(images, levels), table)
    table = torch.where(kind == INDEX["equalize"], equalized(images, levels), table)
    return table.to(torch.uint8)


def stretched(images: UInt8[Tensor, "n c h w"], levels: Float32[Tensor, " 256"]) -> Float32[Tensor, "n c 256"]:
    """Table that spreads each channel's levels over 0 to 255; a channel of one level stays as it is."""
    low, high = images.flatten(2).amin(-1, keepdim=True).float(), images.flatten(2).amax(-1, keepdim=True).float()
    scale: Tensor = 255 / (high - low)
    return torch.where(high > low, ((levels - low) * scale).clamp(0, 255), levels)


def equalized(images: UInt8[Tensor, "n c h w"], levels: Float32[Tensor, " 256"]) -> Float32[Tensor, "n c 256"]:
    """Table that gives every level about the same number of pixels; a channel with too few pixels above its top level stays."""
    n, c, h, w = images.shape
    pixels = images.flatten(2).long()
    counts = torch.zeros(n, c, 256, device=images.device).scatter_add_(2, pixels, torch.ones((), device=images.device).expand(n, c, h * w))
    below = counts.cumsum(2) - counts
    top = images.flatten(2).amax(-1, keepdim=True).long()
    step = ((h * w - counts.gather(2, top)) / 255).floor()
    # half a pixel keeps the floor of a ratio of whole numbers right under any rounding
    equal = ((below + (step / 2).floor() + 0.5) / step.clamp_min(1)).floor().clamp_max(255)
    return torch.where((step > 0) & (levels > 0), equal, torch.where(step > 0, 0.0, levels))


def lookup(images: UInt8[Tensor, "n c h w"], table: UInt8[Tensor, "n c 256"]) -> UInt8[Tensor, "n c h w"]:
    """Replace every grey level by its entry in the table of its image and channel."""
    return table.gather(2, images.flatten(2).long()).view_as(images)


def blend(
    images: UInt8[Tensor, "n c h w"], grey: UInt8[Tensor, "n 1 h w"], operation: Int64[Tensor, " n"], strength: Float64[Tensor, " n"]
) -> UInt8[Tensor, "n c h w"]:
    """Mix each image with its grey (color) or smoothed (sharpness) version, factor·image + (1 − factor)·version, rounded down."""
    kind = operation.view(-1, 1, 1, 1)
    color, sharpness = kind == INDEX["color"], kind == INDEX["sharpness"]
    # mixing an image with itself would still round some levels down, so torchvision leaves these alone
    if images.shape[1] == 1:
        color = torch.zeros_like(color)
    if min(images.shape[-2:]) <= 2:
        sharpness = torch.zeros_like(sharpness)
    ratio = torch.where(color | sharpness, strength.view(-1, 1, 1, 1), 1)
    values = images.float()
    mixed = ratio.float() * values + (1 - ratio).float() * torch.where(color, grey.float(), smoothed(values))
    return mixed.clamp(0, 255).to(torch.uint8)


def smoothed(values: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Mean over 3×3 pixels with weight 5/13 on the middle one, to the nearest whole level; pixels of the border stay."""
    columns = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    total = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:] + 4 * values[..., 1:-1, 1:-1]
    out = values.clone()
    out[..., 1:-1, 1:-1] = (total / 13).round()  # a sum over 13 is never halfway
    return out
