"""What low-rank local convolutions of one and two dimensions have in common."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convprior.errors import InputError
from convprior.local import functional, plain
from convprior.local.geometry import Geometry, Padding, PaddingMode, check_channels, whole_number
from convprior.local.layers.combining import (
    BIAS_TABLES,
    LOGIT_TABLES,
    Normalize,
    WeightsMode,
    first_logit,
    normalized,
    sum_of_tables,
)
from convprior.local.layers.gate import InputGate
from convprior.local.layers.initialization import Init, draw_bases_
from convprior.local.layers.lifting import as_size, lift, lower
from convprior.local.layers.local_conv import LocalConvNd
from convprior.local.layers.resize import resize_

Local = TypeVar("Local", bound=LocalConvNd)


class LowRankLocalConvNd(_ConvNd):
    """Everything but the arguments' forms; a sequence is an image of one row here.

    Its ``weight`` has the shape of a convolution's with ``rank * out_channels`` filters, so that
    whatever reads, draws or decays the filters of a network finds those of this layer too.

    Args:
        in_channels: C.
        out_channels: F.
        geometry: of the 2-d convolution.
        axes: 1 or 2, the input's.
        padding: as the user gave it, for ``repr``.
        bias: one a channel.
        padding_mode: as in ``nn.Conv2d``.
        rank: K, the number of filter banks.
        weights: which tables the combining weights come from.
        normalize: how logits become weights.
        spatial_bias: one a position, too.
        init: the law of a fresh layer.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        geometry: Geometry,
        axes: int,
        padding: Padding,
        bias: bool,
        padding_mode: PaddingMode,
        *,
        rank: int,
        weights: WeightsMode,
        normalize: Normalize,
        spatial_bias: bool,
        init: Init,
        device: Any,
        dtype: Any,
    ) -> None:
        in_channels, out_channels = check_channels(
            in_channels, out_channels, geometry.groups, padding_mode
        )
        rank = whole_number(rank, "rank")
        _check(normalize, init)
        sides = (geometry.padding[0], geometry.padding[2])[-axes:]
        super().__init__(
            in_channels,
            rank * out_channels,
            geometry.kernel_size[-axes:],
            geometry.stride[-axes:],
            padding if isinstance(padding, str) else sides,
            geometry.dilation[-axes:],
            transposed=False,
            output_padding=(0,) * axes,
            groups=geometry.groups,
            bias=False,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.out_channels = out_channels
        self.geometry = geometry
        self.rank, self.weights, self.normalize, self.init = rank, weights, normalize, init
        self.spatial_bias = spatial_bias
        if bias:
            self.bias = nn.Parameter(self.weight.new_empty(out_channels))
        for table in LOGIT_TABLES[weights]:
            values = self.weight.new_empty(rank, *self._stored(table))
            self.register_parameter(f"{table}_logits", nn.Parameter(values))
        for table in BIAS_TABLES[weights] if spatial_bias else ():
            values = self.weight.new_empty(self._stored(table))
            self.register_parameter(f"{table}_bias", nn.Parameter(values))
        if weights == "input":
            self.gate = InputGate(in_channels, rank, self.input_size, device, dtype)
        self._warn_if_overcomplete()
        self.reset_parameters()

    @property
    def input_size(self) -> tuple[int, ...]:
        """(H, W), or (L,): the size of the inputs this layer has tables for."""
        return self.geometry.input_size[-self._axes :]

    @property
    def bases(self) -> Tensor:
        """The filter banks as a view of ``weight``: ``(rank, F, C / groups, *kernel_size)``."""
        return self.weight.view(self.rank, self.out_channels, *self.weight.shape[1:])

    @property
    def basis_gain(self) -> float:
        """Standard deviation of a basis over that of the effective kernel of a fresh layer.

        ``sqrt(rank)`` under a softmax, which averages the bases at first; else 1. Whoever draws
        ``weight`` from another law multiplies by it. 1 for ``init="authors"``, who do not.
        """
        averaged = self.normalize == "softmax" and self.init == "variance"
        return math.sqrt(self.rank) if averaged else 1.0

    def reset_parameters(self) -> None:
        """Draws the bases again; tables and biases become those of a convolution."""
        if not hasattr(self, "geometry"):
            return  # _ConvNd calls this before there is more than its own weight
        draw_bases_(self.weight, self.init, self.basis_gain)
        logits = self._tables("logits").values()
        for table in logits:
            nn.init.constant_(table, first_logit(self.rank, len(logits)))
        for table in self._tables("bias").values():
            nn.init.zeros_(table)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.weights == "input":
            self.gate.reset_parameters(uniform=self.init == "variance")

    def combining_weights(self, x: Tensor | None = None) -> Tensor:
        """How much of each basis a position takes.

        Args:
            x: the layer's input, for ``weights="input"`` alone.

        Returns:
            (rank, H', W'), in 1-d (rank, L'); for ``weights="input"`` with N in front.

        Raises:
            InputError: ``x`` is missing for ``weights="input"``, or does not fit.
        """
        size = self.geometry.output_size
        if self.weights != "input":
            weights = self._weights().expand(-1, *size)
            return weights.squeeze(-2) if self._axes == 1 else weights
        if x is None:
            raise InputError("weights is 'input', so they depend on it; give combining_weights(x)")
        lifted = lift(x, self.in_channels, self.input_size)
        return lower(self._weights(lifted), x, self.input_size)

    def spatial_bias_map(self) -> Tensor | None:
        """The bias of each position, (H', W') or (L',); None without."""
        bias = self._spatial_bias()
        if bias is None:
            return None
        bias = bias.expand(self.geometry.output_size)
        return bias.squeeze(-2) if self._axes == 1 else bias

    def combined_kernels(self) -> Tensor:
        """The kernel of each position, (H', W', F, C / groups, kh, kw), or (L', F, C / groups, k).

        Raises:
            InputError: ``weights`` is "input": each sample has its own.
        """
        if self.weights == "input":
            raise InputError(
                "weights is 'input', so every sample has its own kernels; there is no table of them"
            )
        weights = self._weights().expand(-1, *self.geometry.output_size)
        kernels = plain.gather_kernels(self._lifted_bases(), weights)
        return kernels.squeeze(-2).squeeze(0) if self._axes == 1 else kernels

    def to_conv(self, tolerance: float = 1e-6) -> nn.Conv1d | nn.Conv2d:
        """The convolution this layer is; see :func:`convprior.local.to_conv`.

        Raises:
            InputError: kernels or spatial bias differ over the positions by more than
                ``tolerance``; the message says how far.
        """
        from convprior.local.surgery.delocalize import to_conv

        return to_conv(self, tolerance)

    @torch.no_grad()
    def resize_positions(self, input_size: int | Sequence[int]) -> None:
        """Makes the layer one for inputs of another size, in place.

        Logits and spatial bias are interpolated linearly, first and last position kept; bases, bias
        and gate stay. Parameters stay the same objects, with another shape: an optimizer that
        keeps averages of their gradients must be made anew.

        Args:
            input_size: (H, W), or one int for all axes.

        Raises:
            InputError: the kernel, or a neighborhood of the gate, does not fit into it.
        """
        rows, columns = as_size(input_size, self._axes)
        geometry = replace(self.geometry, input_size=(rows, columns))
        if self.weights == "input":
            self.gate.check_fits((rows, columns)[-self._axes :])
        self.geometry = geometry
        for table, logits in self._tables("logits").items():
            resize_(logits, tuple(range(1, logits.dim())), self._stored(table))
        for table, bias in self._tables("bias").items():
            resize_(bias, tuple(range(bias.dim())), self._stored(table))
        self._warn_if_overcomplete()

    def no_weight_decay(self) -> set[str]:
        """Names of the tables, which decay would pull toward a plain convolution (timm's name)."""
        return {f"{t}_{kind}" for kind in ("logits", "bias") for t in self._tables(kind)}

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Conv2d has
        """(N, C, H, W) to (N, F, H', W'), in 1-d (N, C, L) to (N, F, L'); N may be missing."""
        lifted = lift(input, self.in_channels, self.input_size)
        bases, weights, spatial = self._lifted_bases(), self._weights(lifted), self._spatial_bias()
        y = functional.mix(
            lifted, bases, weights, self.bias, spatial, self.geometry, self.padding_mode, "auto"
        )
        return lower(y, input, self.input_size)

    @property
    def _axes(self) -> int:
        return len(self.kernel_size)

    def _lifted_bases(self) -> Tensor:
        return self.bases.unsqueeze(-2) if self._axes == 1 else self.bases

    def _stored(self, table: str) -> tuple[int, ...]:
        """The shape of a table along its positions."""
        rows, columns = self.geometry.output_size
        return {"row": (rows,), "column": (columns,), "map": (rows, columns)[-self._axes :]}[table]

    def _tables(self, kind: Literal["logits", "bias"]) -> dict[str, Tensor]:
        if kind == "bias" and not self.spatial_bias:
            return {}
        names = (LOGIT_TABLES if kind == "logits" else BIAS_TABLES)[self.weights]
        return {name: getattr(self, f"{name}_{kind}") for name in names}

    def _weights(self, x: Tensor | None = None) -> Tensor:
        """(K, H', W'), with 1 for an axis without a table; (N, K, H', W') from the gate."""
        size = self.geometry.output_size
        if x is not None and self.weights == "input":
            return normalized(self.gate(x, size), self.normalize, 1)
        logits = sum_of_tables(self._tables("logits"), size, self.rank)
        return normalized(logits, self.normalize, 0)

    def _spatial_bias(self) -> Tensor | None:
        """Broadcastable to (H', W')."""
        tables = self._tables("bias")
        return sum_of_tables(tables, self.geometry.output_size) if tables else None

    def _warn_if_overcomplete(self) -> None:
        rows, columns = self.geometry.output_size
        told_apart = {"rows": rows, "columns": columns}.get(self.weights, rows * columns)
        if self.rank > told_apart:
            warnings.warn(
                f"rank is {self.rank} and there are {told_apart} positions to tell apart; "
                "more bases than positions add nothing but parameters",
                stacklevel=4,
            )

    @torch.no_grad()
    def _into(self, local: Local) -> Local:
        """Gives a locally connected layer of the same arguments this layer's function."""
        local.weight = nn.Parameter(self.combined_kernels())
        channels = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        channels = channels.view(-1, *[1] * self._axes)
        positions = self.spatial_bias_map()
        if positions is None:
            positions = self.weight.new_zeros(self.geometry.output_size[-self._axes :])
        if local.bias is not None:
            local.bias = nn.Parameter(channels + positions)
        return local.train(self.training)

    def extra_repr(self) -> str:
        """Arguments as given, defaults of ``nn.Conv2d`` left out."""
        conv: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return (
            f"{conv}, input_size={self.input_size}, rank={self.rank}, "
            f"weights={self.weights!r}, normalize={self.normalize!r}, "
            f"spatial_bias={self.spatial_bias}"
        )


def _check(normalize: Normalize, init: Init) -> None:
    if normalize not in ("softmax", "l2", None):
        raise InputError(f"normalize is {normalize!r}; choose 'softmax', 'l2' or None")
    if init not in get_args(Init):
        raise InputError(f"init is {init!r}; choose of {get_args(Init)}")
