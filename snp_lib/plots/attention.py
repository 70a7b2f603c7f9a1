"""Where heads look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from snp_lib.plots.style import COLORS


def attention_maps(maps: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Mean attention maps, heads down and labels across, one block of columns per network, all in one scale of shades.

    The label on the diagonal is that of the head, and framed. The hundredth of the places that receive most, in the network where
    these receive most, share the darkest shade, so that no single place leaves all others pale.

    Args:
        maps: network → (H, H, rows, columns), head by label; 1 is what a place would receive if all received alike.
        labels: their names.
    """
    heads, most = len(labels), max(float(np.quantile(values, 0.99)) for values in maps.values())
    widths = [1.0] * heads + ([0.25] + [1.0] * heads) * (len(maps) - 1)  # a gap between networks
    size = (6.4, 6.4 / sum(widths) * heads + 1.9)
    figure, axes = plt.subplots(heads, len(widths), figsize=size, layout="constrained", squeeze=False, gridspec_kw={"width_ratios": widths})
    for axis in axes[:, heads :: heads + 1].flat:
        axis.axis("off")
    for start, (network, values) in zip(range(0, len(widths), heads + 1), maps.items(), strict=True):
        axes[0, start].set_title(network, fontsize=11, loc="left")
        for head, label in np.ndindex(heads, heads):
            axis, own = axes[head, start + label], head == label
            image = axis.imshow(values[head, label], cmap="Blues", vmin=0, vmax=most, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(visible=True, color=COLORS["ff_hidden"] if own else "#dddddd", linewidth=2.2 if own else 0.6)
        for label, name in enumerate(labels):
            axes[-1, start + label].set_xlabel(name, fontsize=10, rotation=90)
    for head in range(heads):
        axes[head, 0].set_ylabel(f"head {head + 1}", fontsize=10)
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=30, extend="max", label="attention received, 1 = uniform")
    return figure
