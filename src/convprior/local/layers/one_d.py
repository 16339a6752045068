"""The same layers for sequences: audio, text, sensors."""

from collections.abc import Sequence
from typing import Any, Literal, cast

from convprior.errors import InputError
from convprior.local.geometry import PaddingMode
from convprior.local.layers.combining import Normalize
from convprior.local.layers.initialization import Init, LocalInit
from convprior.local.layers.lifting import line_geometry
from convprior.local.layers.local_conv import LocalConvNd
from convprior.local.layers.low_rank import LowRankLocalConvNd

Single = int | Sequence[int]
SinglePadding = Single | Literal["same", "valid"]


class LowRankLocalConv1d(LowRankLocalConvNd):
    """:class:`LowRankLocalConv2d` for sequences; the arguments are those of ``nn.Conv1d``.

    Args:
        in_channels: C.
        out_channels: F.
        kernel_size: as in ``nn.Conv1d``, like the arguments up to ``dtype``.
        stride: tables follow the output's length.
        padding: an int, "same" or "valid".
        dilation: as in ``nn.Conv1d``.
        groups: as in ``nn.Conv1d``.
        bias: whether there is one a channel.
        padding_mode: as in ``nn.Conv1d``.
        device: of the parameters.
        dtype: of the parameters.
        input_size: length L of the inputs.
        rank: K >= 1, the number of kernels mixed.
        weights: "map", logits a position, ``map_logits`` (K, L'); or "input".
        normalize: "softmax", "l2" or None.
        spatial_bias: one a position, ``map_bias`` (L',).
        init: "variance" or "authors".

    Shape:
        input (N, C, L) or (C, L), output (N, F, L') or (F, L').

    Raises:
        InputError: an argument is out of its range; in ``forward``, an input of another length.

    Example:
        >>> layer = LowRankLocalConv1d(2, 4, 5, padding="same", input_size=100, rank=3)
        >>> layer.combining_weights().shape
        torch.Size([3, 100])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Single,
        stride: Single = 1,
        padding: SinglePadding = 0,
        dilation: Single = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        input_size: Single,
        rank: int,
        weights: Literal["map", "input"] = "map",
        normalize: Normalize = "softmax",
        spatial_bias: bool = True,
        init: Init = "variance",
    ) -> None:
        if weights not in ("map", "input"):
            raise InputError(f"weights is {weights!r}; choose 'map' or 'input' in 1-d")
        super().__init__(
            in_channels,
            out_channels,
            line_geometry(input_size, kernel_size, stride, padding, dilation, groups),
            1,
            padding,
            bias,
            padding_mode,
            rank=rank,
            weights=weights,
            normalize=normalize,
            spatial_bias=spatial_bias,
            init=init,
            device=device,
            dtype=dtype,
        )

    def to_local(self) -> "LocalConv1d":
        """A locally connected layer with the same function, and parameters of its own.

        Raises:
            InputError: ``weights`` is "input": every sample has its own kernels.
        """
        return self._into(
            LocalConv1d(
                self.in_channels,
                self.out_channels,
                self.kernel_size,
                self.stride,
                cast("SinglePadding", self.padding),
                self.dilation,
                self.groups,
                self.bias is not None or self.spatial_bias,
                self.padding_mode,
                "meta",
                self.weight.dtype,
                input_size=self.input_size,
            )
        )


class LocalConv1d(LocalConvNd):
    """:class:`LocalConv2d` for sequences: ``weight`` (L', F, C / groups, k), ``bias`` (F, L').

    Args:
        in_channels: C.
        out_channels: F.
        kernel_size: as in ``nn.Conv1d``, like the arguments up to ``dtype``.
        stride: positions follow the output's length.
        padding: an int, "same" or "valid".
        dilation: as in ``nn.Conv1d``.
        groups: as in ``nn.Conv1d``.
        bias: whether there is one a channel and position.
        padding_mode: as in ``nn.Conv1d``.
        device: of the parameters.
        dtype: of the parameters.
        input_size: length L of the inputs.
        init: "fan_in" or "keras".

    Shape:
        input (N, C, L) or (C, L), output (N, F, L') or (F, L').

    Raises:
        InputError: an argument is out of its range; in ``forward``, an input of another length.

    Example:
        >>> LocalConv1d(2, 4, 5, input_size=100).weight.shape
        torch.Size([96, 4, 2, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Single,
        stride: Single = 1,
        padding: SinglePadding = 0,
        dilation: Single = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        input_size: Single,
        init: LocalInit = "fan_in",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            line_geometry(input_size, kernel_size, stride, padding, dilation, groups),
            1,
            padding,
            bias,
            padding_mode,
            init=init,
            device=device,
            dtype=dtype,
        )
