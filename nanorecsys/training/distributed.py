"""Data-parallel training under torchrun: each process holds the model and a share of each batch.

    torchrun --nproc-per-node 2 -m nanorecsys.training --out data/cache/retriever

All processes build the same batches from the same seed, take every world-th row and sum their
gradients, so that loss and step are those of one process with the whole batch. In a single process
every function here does nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if any."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_gradients(parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
    """Sum gradients in place, and the loss, over the processes: one message for all of them.

    A process without a row of a short last batch has no gradients; it contributes zeros.
    """
    if world() == 1:
        return loss
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    message = parameters_to_vector([*gradients, loss])
    dist.all_reduce(message)
    vector_to_parameters(message, [*gradients, loss])
    return loss


def from_first(value: Any) -> Any:
    """The value of the first process, once all processes have arrived here."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
