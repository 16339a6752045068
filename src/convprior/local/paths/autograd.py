"""One autograd node for every path: it keeps the inputs alone, and asks the path for gradients.

With ``create_graph`` the gradients are those of the plain definition, which can be differentiated
again.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from convprior.local import plain
from convprior.local.geometry import Geometry
from convprior.local.paths.kernels_first import Gradients, Needs


class Path(Protocol):
    """An order of evaluation: what the modules of this folder and the compiled paths provide."""

    def forward(self, x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
        """(N, F, H', W')."""

    def backward(
        self,
        x: Tensor,
        bases: Tensor,
        weights: Tensor,
        grad_y: Tensor,
        geometry: Geometry,
        needs: Needs,
    ) -> Gradients:
        """Of x, bases, weights; None where not needed."""


class Mix(torch.autograd.Function):
    """``plain.mix_outputs`` by a path."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry, path: Path
    ) -> Tensor:
        """Keeps x, bases and weights as they are."""
        ctx.save_for_backward(x, bases, weights)
        ctx.geometry, ctx.path = geometry, path
        with torch.autocast(x.device.type, enabled=False):
            return path.forward(x, bases, weights, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """From the path, or in graph mode from the definition."""
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return *_of_plain(plain.mix_outputs, ctx, needs, grad_y), None, None
        with torch.autocast(grad_y.device.type, enabled=False):
            found = ctx.path.backward(*ctx.saved_tensors, grad_y, ctx.geometry, needs)
        return *found, None, None


class Gather(torch.autograd.Function):
    """``plain.local_plain`` by a path."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        geometry: Geometry,
        forward: Callable[..., Tensor],
        backward: Callable[..., tuple[Tensor | None, Tensor | None]],
    ) -> Tensor:
        """Keeps x and weight as they are."""
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.path_backward = geometry, backward
        with torch.autocast(x.device.type, enabled=False):
            return forward(x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """From the path, or in graph mode from the definition."""
        needs = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            return *_of_plain(plain.local_plain, ctx, needs, grad_y), None, None, None
        with torch.autocast(grad_y.device.type, enabled=False):
            found = ctx.path_backward(*ctx.saved_tensors, grad_y, ctx.geometry, needs)
        return *found, None, None, None


def _of_plain(
    definition: Callable[..., Tensor], ctx: Any, needs: tuple[bool, ...], grad_y: Tensor
) -> list[Tensor | None]:
    # Saved tensors may depend on each other, as weights that a gate has read off x do. Aliases do
    # not, so these gradients are partial ones; what comes before is other nodes' to add.
    aliases = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
    wanted = [alias for alias, need in zip(aliases, needs, strict=True) if need]
    y = definition(*aliases, ctx.geometry)
    found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=True))
    return [next(found) if need else None for need in needs]
