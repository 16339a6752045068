"""Several processes, one result: the global batch is shared out, gradients and statistics joined.

Start it with ``torchrun --nproc-per-node=N``; the environment it sets is all that is read.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from convprior.errors import InputError


@dataclass(frozen=True)
class World:
    """This process among the processes of one run."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes so; all get the same answer."""
        if self.size == 1:
            return wish
        return bool(self.sum(torch.tensor(float(wish), device=self.device)) > 0)

    def replicate(self, model: nn.Module) -> nn.Module:
        """The network whose backward pass leaves the mean gradient over processes."""
        if self.size == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        # Joint statistics keep the buffers equal without a broadcast at every step. New
        # PyTorch warns about the name that old PyTorch has for this.
        names = inspect.signature(DistributedDataParallel).parameters
        new, old = "forward_sync_buffers", "broadcast_buffers"
        options: dict[str, Any] = {new if new in names else old: False}
        return DistributedDataParallel(model, device_ids=device_ids, **options)


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Joins the processes of torchrun, or stays alone where there are none.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        InputError: the device is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, find_device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    found = find_device(device)
    if found.type == "cuda":
        found = torch.device("cuda", local)
        torch.cuda.set_device(found)
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield World(rank, size, found)
    finally:
        if started:
            dist.destroy_process_group()


def find_device(name: str) -> torch.device:
    """The device of that name; ``auto`` prefers a GPU.

    Raises:
        InputError: no such device is here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device = {name!r} must be 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(f"device = {name!r} is not here ({count} GPUs found); use 'cpu'")
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise InputError(f"device = {name!r} must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return device


def join_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Makes every batch normalization use the statistics of the global batch.

    On GPUs this is PyTorch's SyncBatchNorm, which has no CPU form; there it is
    :class:`JointBatchNorm`.

    Raises:
        InputError: a batch normalization of a class of its own, which cannot be exchanged.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm)]
    for name, layer in layers:
        if type(layer) not in plain:
            raise InputError(
                f"{name} is a {type(layer).__name__}, whose statistics cannot be joined over "
                "processes: run this network in one process"
            )
    if device.type == "cuda":
        joined: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return joined
    for _, layer in layers:
        # Same parameters, buffers, hooks and place in the network; another forward.
        layer.__class__ = JointBatchNorm
    return model


class JointBatchNorm(_BatchNorm):
    """Batch normalization over the samples of all processes, on any device.

    With ``n`` values of a channel in all processes together, ``mean = sum(x) / n`` and
    ``var = sum((x - mean)^2) / n``: the two sums are exchanged, also in the backward pass, so that
    result and gradient are those of one process with the whole batch. Shares may be empty.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalizes ``input``, (n, C, ...)."""
        if not self.training and self.running_mean is not None:
            alone: Tensor = super().forward(input)
            return alone
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        over = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_tensor([x.numel() // x.shape[1]])
        sums: Tensor = _SumOverProcesses.apply(torch.cat([x.sum(over), count]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centered = x - mean.view(shape)
        var = _SumOverProcesses.apply(centered.square().sum(over)) / n
        out = centered * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        if self.running_mean is not None and self.running_var is not None:
            self._track(mean.detach(), var.detach() * (n / (n - 1)))
        normalized: Tensor = out.to(input.dtype)
        return normalized

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = self.momentum
        if rate is None:
            rate = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(var, rate)


class _SumOverProcesses(torch.autograd.Function):
    """``y = sum over processes of x``; hence each ``x`` receives the sum of all gradients."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # noqa: ARG004
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad
