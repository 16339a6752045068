"""LowRankLocalConv2d: between a convolution and a locally connected layer.

Paper: G. Elsayed, P. Ramachandran, J. Shlens, S. Kornblith, "Revisiting Spatial Invariance with
Low-Rank Local Connectivity", ICML 2020 (arXiv 2002.02959).

Reference code: google-research/google-research, folder ``low_rank_local_connectivity``.

Differences: a fresh layer keeps the variance of a convolution's filters at any rank
(``init="authors"`` does not); input-dependent weights start equal; all bases have one kernel size
and dilation.
"""

from typing import Any, cast, get_args

from convprior.errors import InputError
from convprior.local.geometry import Geometry, Padding, PaddingMode, Pair
from convprior.local.layers.combining import Normalize, WeightsMode
from convprior.local.layers.initialization import Init
from convprior.local.layers.local_conv import LocalConv2d
from convprior.local.layers.low_rank import LowRankLocalConvNd


class LowRankLocalConv2d(LowRankLocalConvNd):
    r"""A convolution whose kernel at each position is a mixture of K kernels.

    ``W(i, j) = sum_k w_k(i, j) B_k`` is the kernel of the output position (i, j), and

    ``y[n, :, i, j] = W(i, j) . patch(n, i, j) + bias + spatial_bias(i, j)``.

    With ``rank=1`` and ``spatial_bias=False`` it is ``nn.Conv2d``; with a basis a position it is
    :class:`LocalConv2d`. Since the kernels are mixed first where that is cheaper, time hardly grows
    with the rank.

    The weights ``w_k`` are the softmax over k of logits ``l_k(i, j)``, which come from tables:

    - ``separable``: ``r_k(i) + c_k(j)``, parameters ``row_logits`` (K, H'), ``column_logits``
      (K, W');
    - ``map``: one a position, ``map_logits`` (K, H', W');
    - ``rows``, ``columns``: one a row or column, which then has one kernel;
    - ``input``: a small network of the input, ``gate``, different for every sample.

    The spatial bias is a scalar a position, shared by the channels, of the same form (``row_bias``
    and ``column_bias``, or ``map_bias``; a map for ``input``). A fresh layer is a convolution:
    equal weights, no spatial bias, effective filters ``N(0, 2 / fan_in)``, zero bias.

    In SGD the mean kernel moves K times slower than a convolution's;
    :func:`convprior.local.param_groups` makes up for it and leaves the tables undecayed.

    Args:
        in_channels: C.
        out_channels: F.
        kernel_size: as in ``nn.Conv2d``, like the arguments up to ``dtype``.
        stride: tables follow the output's size.
        padding: an int, a pair, "same" or "valid".
        dilation: as in ``nn.Conv2d``.
        groups: as in ``nn.Conv2d``.
        bias: whether there is one a channel.
        padding_mode: as in ``nn.Conv2d``.
        device: of the parameters.
        dtype: of the parameters; half-precision tables are normalized in float32.
        input_size: (H, W) of the inputs, or one int for both. See :meth:`resize_positions`.
        rank: K >= 1, the number of kernels mixed.
        weights: one of the above.
        normalize: "softmax", "l2" (divided by the norm over k) or None (the logits themselves).
        spatial_bias: whether there is one.
        init: "variance" as above, or "authors": each basis from He's uniform law, so that under a
            softmax the effective filters have a K-th of that variance.

    Shape:
        input (N, C, H, W) or (C, H, W), output (N, F, H', W') or (F, H', W').

    Raises:
        InputError: an argument is out of its range; in ``forward``, an input of another size.

    Example:
        >>> layer = LowRankLocalConv2d(3, 8, 3, padding=1, input_size=16, rank=4)
        >>> layer(torch.randn(2, 3, 16, 16)).shape, layer.combining_weights().shape
        (torch.Size([2, 8, 16, 16]), torch.Size([4, 16, 16]))

    Source: see the top of this file; the initialization is our choice.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        input_size: Pair,
        rank: int,
        weights: WeightsMode = "separable",
        normalize: Normalize = "softmax",
        spatial_bias: bool = True,
        init: Init = "variance",
    ) -> None:
        if weights not in get_args(WeightsMode):
            raise InputError(f"weights is {weights!r}; choose of {get_args(WeightsMode)}")
        super().__init__(
            in_channels,
            out_channels,
            Geometry.of_conv(input_size, kernel_size, stride, padding, dilation, groups),
            2,
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

    def to_local(self) -> LocalConv2d:
        """A locally connected layer with the same function, and parameters of its own.

        Raises:
            InputError: ``weights`` is "input": every sample has its own kernels.
        """
        return self._into(
            LocalConv2d(
                self.in_channels,
                self.out_channels,
                self.kernel_size,
                self.stride,
                cast("Padding", self.padding),
                self.dilation,
                self.groups,
                self.bias is not None or self.spatial_bias,
                self.padding_mode,
                "meta",
                self.weight.dtype,
                input_size=self.input_size,
            )
        )
