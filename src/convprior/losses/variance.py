"""The variance of each sample's features: what Bias Loss takes for their diversity."""

import math

import torch
from torch import Tensor

from convprior.errors import InputError

# Deviations below this many units of rounding of the mean are no deviations. The float32 mean of
# equal numbers is not exactly that number, so constant features would have a variance of noise.
ROUNDING = 8.0


def feature_variance(features: Tensor, *, layer: str | None = None) -> Tensor:
    r"""Variance of all features of each sample, without gradient.

    ``v_i = 1/(n-1) sum_j (x_ij - mean_i)^2``: one number a sample over its ``n`` values, channels
    and positions together, in two passes. bf16 and fp16 are summed in float32; float64 stays. A
    sample that holds a NaN or an infinity has a NaN; features constant to within rounding have 0.

    Args:
        features: (N, C, H, W), (N, L, C), (N, C) or any (N, ...), in any memory format.
        layer: its name, for the error message.

    Returns:
        (N,), float32, or float64 for float64.

    Raises:
        InputError: there is one value a sample, or no dimension beside the batch, or the values
            are no real floating-point numbers.

    Source: Abrahamyan et al., "Bias Loss for Mobile Neural Networks" (arXiv 2107.11170), Eq. 1.

    >>> feature_variance(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    tensor([1., 0.])
    """
    whose = "features" if layer is None else f"features of layer {layer!r}"
    shape = tuple(features.shape)
    if not features.is_floating_point():
        raise InputError(f"{whose} are {features.dtype}; give real floating-point numbers")
    if features.ndim < 2 or (count := math.prod(shape[1:])) < 2:
        raise InputError(
            f"{whose} have shape {shape}: a variance needs at least 2 values a sample; take a "
            "feature map or vector, such as the input of the last global pooling"
        )
    features = features.detach()
    dims = tuple(range(1, features.ndim))
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    # torch.var takes 10 to 20 times as long on a CPU, and rounds half precision to half precision.
    mean = features.mean(dims, keepdim=True, dtype=dtype)
    deviations = features - mean
    variance = deviations.square_().sum(dims) / (count - 1)
    smallest = (ROUNDING * torch.finfo(dtype).eps * mean.flatten()).square_()
    return variance.masked_fill_(variance <= smallest, 0.0)
