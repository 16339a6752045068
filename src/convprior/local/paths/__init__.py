"""The orders of evaluation of a local layer, behind one dispatcher.

``mix`` and ``gather`` are the doors; ``dispatch`` decides which path they take, from the costs
in ``cost``. A path is a module with ``forward`` and ``backward``, pure functions of tensors:
``lines``, ``kernels_first`` and ``recompute`` (at rank one, "conv") here, and the compiled ones,
``convprior.local.engine`` ("compiled") and ``convprior.local.gpu``. ``autograd`` makes a
differentiable operation of each, which keeps nothing but its inputs for the backward pass.

``plain`` is no path of this kind: it keeps what ordinary operations keep, the K outputs, or the
patches where a kernel is given for each position. Left to itself, the dispatcher takes it in
training for small layers alone, see ``dispatch.KEPT_BYTES`` and ``dispatch.SMALL_GIVEN``.
"""

import importlib

from torch import Tensor

from convprior.local import plain
from convprior.local.geometry import Geometry
from convprior.local.paths.autograd import Gather, Mix
from convprior.local.paths.dispatch import PATHS, choose, choose_given, use_path

__all__ = ["PATHS", "choose", "gather", "mix", "use_path"]

_MODULES = {
    "conv": "convprior.local.paths.recompute",
    "lines": "convprior.local.paths.lines",
    "kernels_first": "convprior.local.paths.kernels_first",
    "recompute": "convprior.local.paths.recompute",
    "compiled": "convprior.local.engine",
    "triton": "convprior.local.gpu",
}


def mix(
    x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry, path: str = "auto"
) -> Tensor:
    """``sum_k w_k * conv(x, B_k)``.

    Args:
        x: (N, C, H, W), any memory format.
        bases: (K, F, C / groups, kh, kw), in the dtype of ``x``.
        weights: (K, H', W'); (K, H', 1) or (K, 1, W') where they depend on one axis alone;
            (N, K, H', W') where every sample has its own.
        geometry: of the convolution.
        path: one of ``PATHS``, or "auto" for what ``use_path`` says or else the cheapest.

    Returns:
        (N, F, H', W') in the dtype of ``x``.

    Raises:
        InputError: there is no such path, or it cannot compute this.
    """
    name = choose(x, bases, weights, geometry, path)
    if name == "plain":
        return plain.mix_outputs(x, bases, weights, geometry)
    if name == "kernels_first":
        weights = weights.expand(-1, *geometry.output_size)
    elif weights.shape[1:] == (1, 1):  # the same everywhere: along rows, as good as along columns
        weights = weights.expand(-1, geometry.output_size[0], 1)
    made: Tensor = Mix.apply(x, bases, weights, geometry, importlib.import_module(_MODULES[name]))
    return made


def gather(x: Tensor, weight: Tensor, geometry: Geometry, path: str = "auto") -> Tensor:
    """A convolution with a kernel for each position.

    Args:
        x: (N, C, H, W), any memory format.
        weight: (H', W', F, C / groups, kh, kw), in the dtype of ``x``.
        geometry: of the convolution.
        path: "plain", "kernels_first", "compiled", "triton", or "auto".

    Returns:
        (N, F, H', W').

    Raises:
        InputError: there is no such path, or it cannot compute this.
    """
    name = choose_given(x, weight, geometry, path)
    if name == "plain":
        return plain.local_plain(x, weight, geometry)
    module = importlib.import_module(_MODULES[name])
    passes = module.forward_given, module.backward_given
    made: Tensor = Gather.apply(x, weight, geometry, *passes)
    return made
