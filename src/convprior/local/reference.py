"""Slow oracles of this room: float64, one loop a sum, one formula a line.

Nothing here is imported by the fast paths; the tests compare the two.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from convprior.local.geometry import Geometry


def reference_local_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    padding_mode: str = "zeros",
) -> Tensor:
    """``y[n, f, i, j] = bias[f, i, j] + sum over c, a, b of W(i, j)[f, c, a, b] x[n, c', i', j']``.

    ``i' = i stride + a dilation - top``, ``c'`` counts within the group of ``f``, and ``x`` outside
    the image is what ``padding_mode`` says.

    Args:
        x: (N, C, H, W).
        weight: (H', W', F, C / groups, kh, kw), or with N in front.
        bias: broadcastable to (F, H', W'), or None.
        geometry: of the convolution.
        padding_mode: as in ``nn.Conv2d``.

    Returns:
        (N, F, H', W'), float64.
    """
    x, weight = x.detach().double(), weight.detach().double()
    kernels = weight if weight.dim() == 7 else weight.expand(len(x), *weight.shape)
    rows, columns, filters, channels, kh, kw = kernels.shape[1:]
    y = torch.zeros(len(x), filters, rows, columns, dtype=torch.float64)
    if bias is not None:
        y += bias.detach().double()
    per_group = filters // geometry.groups
    for i, j, a, b in itertools.product(range(rows), range(columns), range(kh), range(kw)):
        row = i * geometry.stride[0] + a * geometry.dilation[0] - geometry.padding[0]
        column = j * geometry.stride[1] + b * geometry.dilation[1] - geometry.padding[2]
        inside = (
            _source(row, x.shape[2], padding_mode),
            _source(column, x.shape[3], padding_mode),
        )
        if None in inside:
            continue
        pixel = x[:, :, inside[0], inside[1]]
        for n, f in itertools.product(range(len(x)), range(filters)):
            first = (f // per_group) * channels
            seen = pixel[n, first : first + channels]
            y[n, f, i, j] += (kernels[n, i, j, f, :, a, b] * seen).sum()
    return y


def reference_kernels(bases: Tensor, weights: Tensor) -> Tensor:
    """``W(i, j) = sum_k w_k(i, j) B_k``.

    Args:
        bases: (K, F, C / groups, kh, kw).
        weights: (K, H', W') or (N, K, H', W').

    Returns:
        (H', W', F, C / groups, kh, kw) or with N in front, float64.
    """
    bases, weights = bases.detach().double(), weights.detach().double()
    if weights.dim() == 4:
        return torch.stack([reference_kernels(bases, sample) for sample in weights])
    rank, rows, columns = weights.shape
    kernels = torch.zeros(rows, columns, *bases.shape[1:], dtype=torch.float64)
    for i, j, k in itertools.product(range(rows), range(columns), range(rank)):
        kernels[i, j] += weights[k, i, j] * bases[k]
    return kernels


def reference_weights(
    tables: Mapping[str, Tensor], output_size: Sequence[int], normalize: str | None
) -> Tensor:
    """Logits of a position from its tables, then weights.

    Args:
        tables: "row" (K, H'), "column" (K, W'), "map" (K, H', W'): some of them, added up.
        output_size: (H', W').
        normalize: "softmax", "l2" or None.

    Returns:
        (K, H', W'), float64.
    """
    tables = {name: table.detach().double() for name, table in tables.items()}
    rank = len(next(iter(tables.values())))
    weights = torch.empty(rank, *output_size, dtype=torch.float64)
    for i, j in itertools.product(*map(range, output_size)):
        place = {"row": (i,), "column": (j,), "map": (i, j)}
        logits = [
            sum(float(table[(k, *place[name])]) for name, table in tables.items())
            for k in range(rank)
        ]
        for k, weight in enumerate(_normalized(logits, normalize)):
            weights[k, i, j] = weight
    return weights


def reference_gate(
    x: Tensor,
    parameters: Mapping[str, Tensor],
    output_size: Sequence[int],
    normalize: str | None,
) -> Tensor:
    """Weights that depend on the input, in five steps: see the code.

    Args:
        x: (N, C, H, W).
        parameters: of the gate, by name.
        output_size: (H', W').
        normalize: "softmax", "l2" or None.

    Returns:
        (N, K, H', W'), float64.
    """
    p = {name: tensor.detach().double() for name, tensor in parameters.items()}
    rank = len(p["reduce_bias"])
    results = []
    for image in x.detach().double():
        # 1. A 1x1 convolution to K channels.
        z = _pointwise(image, p["reduce_weight"], p["reduce_bias"])
        # 2. Branches: itself, its mean, neighborhoods without padding.
        height, width = z.shape[1:]
        mean = torch.zeros(rank, 1, 1, dtype=torch.float64)
        for k, i, j in itertools.product(range(rank), range(height), range(width)):
            mean[k, 0, 0] += z[k, i, j] / (height * width)
        branches = [z, mean]
        for d in (1, 2, 4, 8):
            if f"context{d}_weight" in p:
                branches.append(_depthwise(z, p[f"context{d}_weight"], p[f"context{d}_bias"], d))
        # 3. All at the output's size.
        joined = torch.cat([_bilinear(branch, output_size) for branch in branches])
        # 4. Through 3K channels with a ReLU and 6K with a sigmoid to K logits.
        hidden = _pointwise(joined, p["merge_weight"], p["merge_bias"]).clamp(min=0.0)
        hidden = 1.0 / (1.0 + (-_pointwise(hidden, p["widen_weight"], p["widen_bias"])).exp())
        logits = _pointwise(hidden, p["logits_weight"], p["logits_bias"])
        # 5. Normalized over k.
        weights = torch.empty_like(logits)
        for i, j in itertools.product(*map(range, output_size)):
            values = _normalized(logits[:, i, j].tolist(), normalize)
            weights[:, i, j] = torch.tensor(values, dtype=torch.float64)
        results.append(weights)
    return torch.stack(results)


def _normalized(logits: Sequence[float], normalize: str | None) -> list[float]:
    if normalize == "softmax":
        largest = max(logits)
        total = sum(math.exp(value - largest) for value in logits)
        return [math.exp(value - largest) / total for value in logits]
    if normalize == "l2":
        norm = max(math.sqrt(sum(value * value for value in logits)), 1e-6)
        return [value / norm for value in logits]
    return list(logits)


def _source(index: int, size: int, padding_mode: str) -> int | None:
    """Which pixel stands at an index outside the image; None for a zero."""
    if 0 <= index < size:
        return index
    if padding_mode == "replicate":
        return min(max(index, 0), size - 1)
    if padding_mode == "circular":
        return index % size
    if padding_mode == "reflect":
        return -index if index < 0 else 2 * (size - 1) - index
    return None


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = torch.zeros(len(weight), *x.shape[1:], dtype=torch.float64)
    for f in range(len(weight)):
        y[f] += bias[f]
        for c in range(len(x)):
            y[f] += weight[f, c, 0, 0] * x[c]
    return y


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    kh, kw = weight.shape[2:]
    height, width = x.shape[1] - dilation * (kh - 1), x.shape[2] - dilation * (kw - 1)
    y = torch.zeros(len(x), height, width, dtype=torch.float64)
    for k, i, j in itertools.product(range(len(x)), range(height), range(width)):
        y[k, i, j] = bias[k]
        for a, b in itertools.product(range(kh), range(kw)):
            y[k, i, j] += weight[k, 0, a, b] * x[k, i + a * dilation, j + b * dilation]
    return y


def _bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Corner pixels stay at the corners."""
    y = torch.empty(len(x), *size, dtype=torch.float64)
    for i, j in itertools.product(*map(range, size)):
        (top, bottom, down), (left, right, across) = (
            _between(index, new, old)
            for index, new, old in zip((i, j), size, x.shape[1:], strict=True)
        )
        upper = (1.0 - across) * x[:, top, left] + across * x[:, top, right]
        lower = (1.0 - across) * x[:, bottom, left] + across * x[:, bottom, right]
        y[:, i, j] = (1.0 - down) * upper + down * lower
    return y


def _between(index: int, new: int, old: int) -> tuple[int, int, float]:
    place = index * (old - 1) / (new - 1) if new > 1 else 0.0
    first = min(int(place), max(old - 2, 0))
    return first, min(first + 1, old - 1), place - first
