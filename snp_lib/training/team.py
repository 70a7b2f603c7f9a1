"""Several processes that train one network together, started by torchrun; a process on its own is a team of one.

Every process holds the data, draws the same batch with the same augmentation and takes its share of it; gradients are
averaged. So the batch of the recipe is the batch of the whole team, and the number of processes changes the weights
only by the order of additions. On a GPU, however, one process on its own augments sixteen batches with one stream of
random numbers, and a team each with its own, so that the augmentation differs there. Dropout and stochastic depth draw
per process, and batch normalisation takes its statistics per process.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = datetime.timedelta(hours=6)  # the others wait while the first process measures


def start(device: torch.device) -> torch.device:
    """Join the team torchrun started, if it did; returns the device of this process."""
    if not all(name in os.environ for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR")):
        return device  # one of them alone is a leftover
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


def stop() -> None:
    """Leave the team."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process in the team; 0 is the one that evaluates and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch, along the first dimension; raises ValueError where the parts would differ in size."""
    if len(batch) % size():
        raise ValueError(f"a batch of {len(batch)} does not divide among {size()} processes")
    return batch.chunk(size())[rank()]


def wrap(model: nn.Module) -> nn.Module:
    """The model as the team trains it: gradients are averaged over the processes."""
    return DistributedDataParallel(model) if size() > 1 else model


def total(value: Tensor) -> Tensor:
    """Sum over the processes, in place."""
    if size() > 1:
        dist.all_reduce(value)
    return value


def decide(value: bool) -> bool:
    """What the first process decided, for every process; also a barrier."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values
