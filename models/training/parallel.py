# SPDX-License-Identifier: Apache-2.0
"""One process or many: devices and mixed precision by Accelerate, and the mean of the gradients.

The gradients are averaged here, not by DistributedDataParallel. With several players its hooks
would be wrong or wasteful: it holds every parameter of the model and exchanges all of them in
every backward, though a turn has gradients of one player only; it has to search the graph of
every turn for those that take no part; and it fires during backward, so with accumulation each
turn would need its own `no_sync`. An exchange after the last backward of a turn, of that player's
gradients alone, is right by inspection: the mean over processes of the mean over equal shares of
the batch is the mean over the batch. What it gives up is the overlap of exchange and backward.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor
from torch.nn import Parameter

from .settings import TrainSettings

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
_BUCKET = 1 << 25  # elements exchanged at once: bounds the memory of the flat copy


def start(settings: TrainSettings) -> Accelerator:
    """This process's place among the others, and its device.

    Raises ValueError for a precision or device that this machine does not have, and for a
    configuration of Accelerate that contradicts the settings.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu or auto")
    cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if cpu and settings.precision == "fp16":
        raise ValueError("--precision fp16 needs a GPU; use bf16 or no on a CPU")
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first use of CUDA
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", settings.precision):
        raise ValueError(
            f"accelerate was told to use {launched}, but --precision is {settings.precision}: "
            f"give --precision {launched}"
        )
    # Accelerate looks for gloo only when it is told that the device is the CPU.
    accelerator = Accelerator(cpu=cpu, mixed_precision=settings.precision)
    if accelerator.distributed_type in _SHARDED:
        raise ValueError(
            f"accelerate is configured for {accelerator.distributed_type.value}: every process "
            "must hold the whole system here; choose multi-GPU or multi-CPU in accelerate config"
        )
    return accelerator


def mean_over_processes(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The same in every process. values: any shape, overwritten."""
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(values)
        values /= accelerator.num_processes
    return values


def average_gradients(parameters: Sequence[Parameter], accelerator: Accelerator) -> None:
    """Replace each gradient by its mean over processes.

    A parameter that took part in some processes only counts as zero in the others; one that took
    part in none keeps no gradient, so that its optimizer leaves it alone as in one process.
    """
    if accelerator.num_processes == 1:
        return
    part = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
    torch.distributed.all_reduce(part)
    present = [p for p, count in zip(parameters, part.tolist()) if count]
    for bucket in _buckets(present):
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in bucket if p.grad is not None]
        flat = mean_over_processes(torch.cat([g.reshape(-1) for g in gradients]), accelerator)
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))


def _buckets(parameters: Iterable[Parameter]) -> Iterable[list[Parameter]]:
    bucket: list[Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size + parameter.numel() > _BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def copy_from_first(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Give every process what the first one has."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, 0)
