"""The arguments of :func:`~convprior.diagnose.feature_diversity`, checked before any image."""

import math
from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any, Literal

import torch

from convprior.diagnose.diversity.layer import Settings
from convprior.errors import InputError
from convprior.losses.weights import check_shape_of_weights

Layers = str | Sequence[str] | Literal["all"] | None

_PLAIN = (None, torch.float32, torch.float64)
_AUTOCAST = (torch.bfloat16, torch.float16)


def checked(
    max_batches: Any,
    dtype: Any,
    confidence: Any,
    alpha: Any,
    beta: Any,
    batch_size: Any,
    seed: Any,
) -> tuple[int | None, torch.dtype | None, Settings]:
    """These arguments as plain Python numbers; NumPy's are taken too, and truth values are not.

    Raises:
        InputError: one has another type or is outside its range.
    """
    if max_batches is not None:
        max_batches = _whole("max_batches", max_batches, "at least 1, or None for all", 1)
    if dtype not in (*_PLAIN, *_AUTOCAST):
        raise InputError(f"dtype is {dtype!r}; give torch.bfloat16, torch.float16 or None")
    confidence = _real("confidence", confidence)
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; give a number between 0 and 1, such as 0.95")
    alpha, beta = _real("alpha", alpha), _real("beta", beta)
    check_shape_of_weights(alpha, beta, None)
    batch_size = _whole("batch_size", batch_size, "at least 1", 1)
    seed = _whole("seed", seed, "a whole number from 0 to 2**64 - 1", 0, 2**64 - 1)
    autocast = dtype if dtype in _AUTOCAST else None
    return max_batches, autocast, Settings(confidence, alpha, beta, batch_size, seed)


def checked_layers(layers: Any) -> str | list[str] | None:
    """``"all"``, None, or names and patterns; ``["all"]`` is ``"all"``.

    Raises:
        InputError: something else was given.
    """
    if layers is None or isinstance(layers, str):
        return layers
    found: list[Any] = list(layers) if isinstance(layers, Sequence) else [None]
    if not all(isinstance(name, str) for name in found):
        raise InputError(f"layers is {layers!r}; give names or patterns, 'all', or None")
    return "all" if found == ["all"] else found


def _whole(name: str, value: Any, rule: str, least: int, most: float = math.inf) -> int:
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise InputError(f"{name} is {value!r}; give {rule}")
    return number


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is {value!r}; give a number")
    return float(value)
