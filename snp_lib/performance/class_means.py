"""What one pass over inputs measures with readouts: class means, the accuracy of every readout, and the logits of the network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from tqdm.auto import tqdm

from snp_lib.data import Split
from snp_lib.data.dataset import inputs_per_label
from snp_lib.models import Network
from snp_lib.performance.readout import Readout
from snp_lib.training.stopping import Stopped, StopRequests


@dataclass(frozen=True)
class Measurement:
    """What one pass over a split measures. K labels; F pooled features at a site, channel by channel."""

    class_means: Mapping[str, Float32[Tensor, "k f"]]  # mean pooled features of the inputs of each label
    readout_accuracy: Mapping[str, float]  # of each site's readout, in [0, 1]
    logits: Float32[Tensor, "n output"]  # of the network itself, in the order of the inputs
    labels: Tensor  # (n,) of the inputs, in the same order


def measure(
    model: Network,
    readouts: Mapping[str, Readout],
    split: Split,
    prepare: Callable[[Tensor], Tensor],
    *,
    num_classes: int,
    batch_size: int = 128,
    bfloat16: bool = False,
    deadline: float = math.inf,
    progress: bool = False,
) -> Measurement:
    """Class means, readout accuracy and logits at every site, in one forward pass over the split.

    Args:
        bfloat16: on a GPU the network's products in bfloat16; pooling and sums stay as they are.

    Raises:
        Stopped: ``time.monotonic()`` passed the deadline, or SIGTERM came; nothing of the pass is kept.
        ValueError: a label of the split has no input, so its mean does not exist.
    """
    inputs_per_label(split, num_classes)
    return measure_batches(
        model,
        readouts,
        _in_order(split, batch_size),
        prepare,
        num_classes=num_classes,
        total=-(-len(split) // batch_size),
        bfloat16=bfloat16,
        deadline=deadline,
        progress=progress,
    )


def _in_order(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a split, begun only where they are asked for: a request to stop is heard by then."""
    yield from split.batches(size)


@torch.no_grad()
def measure_batches(
    model: Network,
    readouts: Mapping[str, Readout],
    batches: Iterable[tuple[Tensor, Tensor]],
    prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs,
    *,
    num_classes: int,
    total: int,
    bfloat16: bool = False,
    deadline: float = math.inf,
    progress: bool = False,
) -> Measurement:
    """The same of inputs and labels as they come, so that they need not fit in memory together.

    Args:
        total: number of batches, for the progress bar.

    Raises:
        Stopped: as :func:`measure`.
        ValueError: a label without input.
    """
    device = next(model.parameters()).device
    model.eval()
    counts = torch.zeros(num_classes, dtype=torch.long, device=device)
    sums: dict[str, Float64[Tensor, "k f"]] = {}
    hits = {site: torch.zeros((), dtype=torch.long, device=device) for site in readouts}
    logits, seen = [], []
    with StopRequests() as requests:
        for inputs, labels in tqdm(batches, total=total, desc="class means", unit="step", disable=not progress, leave=False):
            labels = labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and device.type == "cuda"):
                prepared = prepare(inputs.to(device))
                output, features = model(prepared, sites=list(readouts))
                mask = model.mask(prepared)
            counts += torch.bincount(labels, minlength=num_classes)
            logits.append(output.float())
            seen.append(labels)
            for site, readout in readouts.items():
                pooled = readout.pool(features[site].float(), mask)
                hits[site] += (readout.linear(pooled).argmax(1) == labels).sum()
                if site not in sums:
                    sums[site] = torch.zeros(num_classes, pooled.shape[1], dtype=torch.float64, device=device)
                sums[site].index_add_(0, labels, pooled.double())
            if requests.pending or time.monotonic() > deadline:
                raise Stopped(requests.reason, "while class means were measured", "the network is kept, the same command measures again")
    if (counts == 0).any():
        raise ValueError(f"label {int((counts == 0).nonzero()[0])} has no input, so that no mean over them exists")
    return Measurement(
        class_means={site: (of_labels / counts.unsqueeze(1)).float().cpu() for site, of_labels in sums.items()},
        readout_accuracy={site: int(hit) / int(counts.sum()) for site, hit in hits.items()},
        logits=torch.cat(logits).cpu(),
        labels=torch.cat(seen).cpu(),
    )
