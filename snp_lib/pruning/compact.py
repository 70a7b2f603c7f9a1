"""What a mask saves when zeros are no longer multiplied: dead units removed, blocks executed alone, and the count of both.

Nothing here comes from the papers: paper C multiplies masks into dense weights, which speeds nothing up. Networks made
here compute what the masked network computes in eval mode, up to the order of additions.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from snp_lib.models.sites import Network
from snp_lib.pruning.masks import Masks, apply_masks, connections, layers
from snp_lib.training.sparsity import Mask

Block = tuple[Int[np.ndarray, " _height"], Int[np.ndarray, " _width"]]  # its rows and its columns


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one layer, or of all, per image: those per token or pixel times the tokens or pixels of an image.

    Biases, and the gathering of features that blocks need, count for nothing.
    """

    dense: int  # of the whole weight
    kept: int  # of the weights kept; no program reaches it with dense products
    compact: int  # after removing dead hidden units, see compact
    blocks: int  # with one dense product per block, see block_permutation
    components: int  # the blocks


def macs(model: nn.Module, masks: Mapping[str, Mask]) -> dict[str, Macs]:
    """The cost of every masked layer in each form; under ``total`` the sums.

    Raises:
        TypeError: a network without layers to prune.
        ValueError: a mask of a layer that the network does not name, or of another shape.
    """
    network, alive, out = _checked(model, masks), _alive(model, masks), {}
    for name, mask in connections(masks, model).items():
        layer, (height, width) = network.layers[name], mask.shape
        rows, columns = (
            int(alive[site].sum()) if site in alive else size for site, size in ((layer.outputs, height), (layer.inputs, width))
        )
        blocks, each = _components(mask.cpu().numpy()), layer.places * layer.parts  # of one connection
        out[name] = Macs(
            dense=each * height * width,
            kept=layer.places * int(masks[name].sum()),
            compact=each * rows * columns,
            blocks=each * sum(len(tall) * len(wide) for tall, wide in blocks),
            components=len(blocks),
        )
    fields = list(Macs.__dataclass_fields__)
    return out | {"total": Macs(**{field: sum(getattr(cost, field) for cost in out.values()) for field in fields})}


def compact(model: Network, masks: Mapping[str, Mask]) -> tuple[Network, Masks]:
    """A smaller copy of the masked network, and the masks of what is left: hidden units of dead paths go.

    A hidden unit whose outgoing weights are all masked contributes nothing. One whose incoming weights are all masked
    contributes the constant activation(bias) · w_out, which moves into the bias of the layer behind. Both are removed; channels of the
    residual stream never are, since the stream carries them on. A filter goes with its normalisation, and only where nothing reads it:
    behind a padded convolution what it sends is no constant. ``model`` itself is unchanged and need not be masked yet.

    The two agree in eval mode; while training, dropout would have acted on the constants.

    Raises:
        TypeError, ValueError: as for :func:`macs`.
    """
    small, left = copy.deepcopy(_checked(model, masks)), dict(masks)
    apply_masks(small, masks)
    pairs = _hidden(small)
    for site, alive in _alive(model, masks).items():
        first, second = pairs[site]
        units = alive.repeat_interleave(small.layers[second].parts) if small.get_parameter(second).ndim == 2 else alive
        if isinstance(writer := _module(small, first), nn.Linear):
            reader, activation = _module(small, second), small.layers[first].activation or nn.Identity()
            with torch.no_grad():
                # of a unit without incoming weights; for one without outgoing weights the product is zero
                constant = reader.weight[:, ~alive].double() @ activation(writer.bias[~alive].double())
                reader.bias.copy_(reader.bias.double() + constant)
        for name, kept in ((first, (alive,)), (second, (slice(None), units))):
            small.set_submodule(name.removesuffix(".weight"), _cut(_module(small, name), kept))
            if name in masks:
                left[name] = left[name][kept]
        norm = f"{first.removesuffix('.conv.weight')}.norm"
        if not isinstance(writer, nn.Linear) and norm in dict(small.named_modules()):
            small.set_submodule(norm, _cut(small.get_submodule(norm), (alive,)))
    return small.train(model.training), left


@dataclass(frozen=True)
class BlockForm:
    """Orders of a mask's rows (outputs) and columns (inputs) that put its blocks along the diagonal, the largest first.

    Rows and columns without a one come last and belong to no block.
    """

    rows: Int[np.ndarray, " output"]
    columns: Int[np.ndarray, " input"]
    blocks: tuple[tuple[int, int], ...]  # height and width of each


def block_permutation(mask: Bool[Tensor, "output input"]) -> BlockForm:
    """Order the units of both sides so that the mask becomes block diagonal, as finely as it can be.

    The blocks are the connected components of the graph that joins an input with an output where the mask is one: no
    order gives smaller ones. Inside a block units stand in spectral order, by the second singular vectors of the
    degree-normalised block (Dhillon, "Co-clustering documents and words using bipartite spectral graph partitioning",
    KDD 2001), which shows the near-blocks of a component that is all one.
    """
    ones = mask.cpu().numpy()
    return _form(ones, [_spectral_order(ones, rows, columns) for rows, columns in _components(ones)])


class BlockLinear(nn.Module):
    """A masked linear layer as one small dense product per block: features (…, input) to features (…, output).

    Args:
        layer: its weights outside the mask are left out, whatever they are.
        mask: which weights are kept, of a convolution which connections.
    """

    axis = -1  # of the units

    def __init__(self, layer: nn.Linear | nn.Conv2d, mask: Bool[Tensor, "output input"]) -> None:
        super().__init__()
        ones, device, weight = mask.cpu().numpy(), layer.weight.device, layer.weight.detach()
        form = _form(ones, _components(ones))
        self.out_features, self.in_features = mask.shape
        self.widths = [width for _, width in form.blocks]
        rows, columns = torch.from_numpy(form.rows).to(device), torch.from_numpy(form.columns).to(device)
        self.register_buffer("columns", columns[: sum(self.widths)])
        self.register_buffer("places", rows.argsort())  # of every output among the rows in block order
        weight = weight.masked_fill(~mask.to(device).view(*mask.shape, *[1] * (weight.ndim - 2)), 0)[rows][:, columns]
        top, left, blocks = 0, 0, []
        for height, width in form.blocks:
            blocks.append(nn.Parameter(_laid_out(weight[top : top + height, left : left + width].clone(), layer.weight)))
            top, left = top + height, left + width
        self.blocks, self.rest = nn.ParameterList(blocks), len(weight) - top
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def product(self, part: Tensor, weight: Tensor) -> Tensor:
        """The features of one block's inputs to those of its outputs."""
        return F.linear(part, weight)

    def forward(self, x: Tensor) -> Tensor:
        axis = self.axis % x.ndim
        gathered = x.index_select(axis, self.get_buffer("columns")).split(self.widths, dim=axis) if self.widths else ()
        parts = [self.product(part, weight) for part, weight in zip(gathered, self.blocks, strict=True)]
        like = parts[0] if parts else x
        parts.append(like.new_zeros(*like.shape[:axis], self.rest, *like.shape[axis + 1 :]))
        out = torch.cat(parts, dim=axis).index_select(axis, self.get_buffer("places"))
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, *[1] * (x.ndim - 1 - axis))


class BlockConvolution(BlockLinear):
    """The same for a convolution of stride one: maps (N, input, h, w) to maps (N, output, h, w)."""

    axis = 1

    def __init__(self, layer: nn.Conv2d, mask: Bool[Tensor, "output input"]) -> None:
        super().__init__(layer, mask)
        self.out_channels, self.padding = layer.out_channels, layer.padding

    def product(self, part: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(part, weight, padding=self.padding)


def blocked(model: Network, masks: Mapping[str, Mask]) -> Network:
    """A copy of the network whose masked layers are :class:`BlockLinear` or :class:`BlockConvolution`; errors as for :func:`macs`."""
    network = copy.deepcopy(_checked(model, masks))
    connected = connections(masks, network)
    for name, mask in masks.items():
        layer = _module(network, name)
        block = BlockLinear(layer, mask) if isinstance(layer, nn.Linear) else BlockConvolution(layer, connected[name])
        network.set_submodule(name.removesuffix(".weight"), block)
    return network.train(model.training)


def _checked(model: nn.Module, masks: Mapping[str, Mask]) -> Network:
    """The model, if these are masks of its layers."""
    known = layers(model)
    assert isinstance(model, Network)
    for name, mask in masks.items():
        if name not in known:
            raise ValueError(f"{name!r} is no layer that can be made smaller; those are {', '.join(known)}")
        if mask.shape != (shape := model.get_parameter(name).shape):
            raise ValueError(f"the mask of {name} must have shape {tuple(shape)}, got {tuple(mask.shape)}")
    return model


def _hidden(model: Network) -> dict[str, tuple[str, str]]:
    """Sites that one layer alone writes and one alone reads, so that their units can go, with these two layers."""
    writers, readers = defaultdict(list), defaultdict(list)
    for name, layer in model.layers.items():
        readers[layer.inputs].append(name)
        writers[layer.outputs].append(name)
    return {site: (writers[site][0], readers[site][0]) for site in readers if len(writers[site]) == len(readers[site]) == 1}


def _alive(model: nn.Module, masks: Mapping[str, Mask]) -> dict[str, Bool[Tensor, " hidden"]]:
    """Hidden site to its units that stay, where one of its two layers has a mask: those with an outgoing weight and, between
    linear layers, with an incoming one. What a filter without incoming weights still sends is no constant behind a padded convolution,
    so it stays."""
    out, network, connected = {}, _checked(model, masks), connections(masks, model)
    for site, (first, second) in _hidden(network).items():
        if first in masks or second in masks:
            every = torch.ones(len(model.get_parameter(first)), dtype=torch.bool)
            folds = network.layers[first].parts == network.layers[second].parts == 1
            reached = connected[first].any(1).cpu() if first in masks and folds else every
            out[site] = reached & (connected[second].any(0).cpu() if second in masks else every)
    return out


def _module(network: nn.Module, name: str) -> Any:
    """The module of a weight."""
    return network.get_submodule(name.removesuffix(".weight"))


def _cut(module: Any, kept: tuple[Any, ...]) -> Any:
    """A copy of a layer or a normalisation with these rows and columns of its weight, and these entries of all else it holds."""
    cut = copy.deepcopy(module)
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if tensor.ndim:
            small = _laid_out(tensor.detach()[kept if name == "weight" else kept[:1]].clone(), tensor)
            setattr(cut, name, nn.Parameter(small) if isinstance(tensor, nn.Parameter) else small)
    if isinstance(cut, nn.BatchNorm2d):
        cut.num_features = len(cut.weight)
    else:
        outputs, inputs = ("out_features", "in_features") if isinstance(cut, nn.Linear) else ("out_channels", "in_channels")
        setattr(cut, outputs, cut.weight.shape[0])
        setattr(cut, inputs, cut.weight.shape[1])
    return cut


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in memory as another one is, since convolutions are fast in one layout."""
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def _components(ones: Bool[np.ndarray, "output input"]) -> list[Block]:
    """Connected components of the graph that joins an input with an output where the mask is one, the largest first."""
    (row, column), units = ones.nonzero(), sum(ones.shape)
    graph = csr_matrix((np.ones(len(row)), (row, len(ones) + column)), shape=(units, units))
    _, component = connected_components(graph, directed=False)
    of_row, of_column = component[: len(ones)], component[len(ones) :]
    found = [(np.flatnonzero(of_row == c), np.flatnonzero(of_column == c)) for c in np.unique(of_row[ones.any(1)])]
    return sorted(found, key=lambda block: -len(block[0]) * len(block[1]))


def _form(ones: Bool[np.ndarray, "output input"], blocks: list[Block]) -> BlockForm:
    return BlockForm(
        rows=np.concatenate([*(rows for rows, _ in blocks), np.flatnonzero(~ones.any(1))]),
        columns=np.concatenate([*(columns for _, columns in blocks), np.flatnonzero(~ones.any(0))]),
        blocks=tuple((len(rows), len(columns)) for rows, columns in blocks),
    )


def _spectral_order(ones: Bool[np.ndarray, "output input"], rows: Int[np.ndarray, " height"], columns: Int[np.ndarray, " width"]) -> Block:
    """The rows and columns of one block by its second singular vectors."""
    block = ones[np.ix_(rows, columns)].astype(np.float64)
    if min(block.shape) < 2:
        return rows, columns
    of_row, of_column = block.sum(1) ** -0.5, block.sum(0) ** -0.5
    left, _, right = np.linalg.svd(of_row[:, None] * block * of_column, full_matrices=False)
    return rows[np.argsort(of_row * left[:, 1], kind="stable")], columns[np.argsort(of_column * right[1], kind="stable")]
