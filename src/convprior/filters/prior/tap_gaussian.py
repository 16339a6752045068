"""The zero-mean Gaussian with a given tap covariance: draws from it, and its penalty."""

import math
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from convprior.errors import InputError
from convprior.filters.prior.algebra import TapAlgebra
from convprior.filters.prior.gaussian import symmetric_root

Scale = Literal["trace", "sum"]


def refuse_undrawable(layer: nn.Module, name: str) -> None:
    """Refuses a layer whose own parameters cannot be drawn in place.

    Raises:
        InputError: one is lazy, on the meta device, or computed from others.
    """
    own = [parameter for parameter in layer._parameters.values() if parameter is not None]
    if any(is_lazy(parameter) for parameter in own):
        raise InputError(f"{name} is lazy and has no weight yet; run one batch through first")
    if any(parameter.is_meta for parameter in own):
        raise InputError(
            f"{name} is on the meta device, where nothing has values; move it with "
            "to_empty(device=...) first"
        )
    # Weight norm and pruning of old leave a plain tensor in place of the parameter.
    if is_parametrized(layer) or isinstance(vars(layer).get("weight"), Tensor):
        raise InputError(
            f"{name} has a parametrized weight, which a draw cannot reach; draw before "
            "parametrizing"
        )


class TapGaussian(TapAlgebra):
    """``N(0, Sigma)`` over the taps of one filter; arguments as in its bases."""

    def sample(
        self,
        out_channels: int,
        in_channels: int,
        generator: Generator | None = None,
        *,
        gain: float = math.sqrt(2.0),
        dtype: torch.dtype = torch.float32,
        normalize: Scale = "trace",
    ) -> Tensor:
        """Draws weights ``w_f ~ N(0, Sigma gain^2 / fan_in)``, ``fan_in = in_channels * taps``.

        The expected squared norm is that of the usual independent draw with the same gain. With
        uncorrelated taps so is the output: ``gain = sqrt(2)`` keeps the second moment through
        convolution and ReLU. With correlated taps the output also depends on the input: taps that
        go together add up on smooth inputs, up to ``(1' Sigma 1) / taps`` times more on a
        constant one. ``normalize="sum"`` divides by that factor and so keeps the second moment of
        constant inputs; rough ones then shrink.

        Args:
            out_channels: filters to draw.
            in_channels: channels each filter sees (input channels / groups).
            generator: source of the normal numbers; None is PyTorch's global one.
            gain: ``sqrt(2)`` keeps the scale through ReLU (He et al., 2015).
            dtype: of the result; half types are drawn in float32.
            normalize: ``trace``: ``trace(Sigma) = taps``; ``sum``: ``1' Sigma 1 = taps``.

        Returns:
            ``(out_channels, in_channels, *kernel_size)`` on the generator's device.

        Raises:
            InputError: a count is below 1, ``gain`` is negative or not finite, ``dtype`` is not
                real floating-point, ``normalize`` is neither, or is ``sum`` and the entries of
                ``Sigma`` sum to about 0.
        """
        if out_channels < 1 or in_channels < 1:
            raise InputError(f"channels are {out_channels} out and {in_channels} in; give >= 1")
        if not 0.0 <= gain < math.inf:
            raise InputError(f"gain is {gain}; give a finite number >= 0")
        if not dtype.is_floating_point:
            raise InputError(f"dtype is {dtype}; give a real floating-point type")
        if normalize not in get_args(Scale):
            raise InputError(f"normalize is {normalize!r}; choose 'trace' or 'sum'")
        taps = self._variance.numel()
        drawn = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        device = generator.device if generator is not None else torch.device("cpu")
        size = (out_channels, in_channels, *self._kernel_size)
        normal = torch.randn(size, generator=generator, dtype=drawn, device=device)
        scale = gain / math.sqrt(in_channels * taps)
        if normalize == "sum" and not self.is_diagonal:
            scale *= math.sqrt(float(self.kernel_covariance().trace()))
        if self.is_diagonal:
            weight = normal * (self._variance.sqrt() * scale).to(normal)
        else:
            root = symmetric_root(self.covariance) * scale
            weight = (normal.view(-1, taps) @ root.to(normal)).view(size)
        return weight.to(dtype)

    @torch.no_grad()
    def init_(
        self,
        module: _ConvNd,
        generator: Generator | None = None,
        *,
        gain: float = math.sqrt(2.0),
        normalize: Scale = "trace",
    ) -> _ConvNd:
        """Draws the weight of a convolution in place; dtype, device and memory format stay.

        Dense, grouped, depthwise and transposed alike: ``fan_in = in_channels/groups * taps``.
        The bias is left alone. A layer that averages several filters at first says by what its
        ``basis_gain`` must make up for that, as :class:`convprior.local.LowRankLocalConv2d` does:
        then the mean filter has the law above.

        Args:
            module: ``nn.Conv1d`` to ``nn.Conv3d`` or a transposed one.
            generator: as in :meth:`sample`.
            gain: as in :meth:`sample`.
            normalize: as in :meth:`sample`.

        Returns:
            ``module``.

        Raises:
            InputError: not a convolution, another kernel size, a parametrized weight or one without
                values (lazy, meta device), or as in :meth:`sample`.
        """
        if not isinstance(module, _ConvNd):
            raise InputError(
                f"{type(module).__name__} is no convolution, and init_ draws one; for those of a "
                "network use redraw_(net, seed=0, prior=prior, only_prior=True)"
            )
        refuse_undrawable(module, str(module))
        self._check_size(tuple(module.kernel_size), str(module))
        weight = module.weight
        filters = weight.shape[0] * weight.shape[1]
        gain = gain * getattr(module, "basis_gain", 1.0)
        gain = gain / math.sqrt(module.in_channels // module.groups)
        # Drawn as (all filters, 1): a transposed weight has its input channels first.
        draw = self.sample(
            filters, 1, generator, gain=gain, dtype=weight.dtype, normalize=normalize
        )
        weight.copy_(draw.view(weight.shape))
        return module

    def penalty(self, weight: Tensor, *, subspace: bool = False) -> Tensor:
        """``sum over filters of w_f' A w_f``, ``A = Sigma^-1`` scaled to ``trace(A) = taps``.

        With uncorrelated taps this is ``sum c w^2`` with ``c`` proportional to ``1 / variance``
        and mean 1, hence comparable with plain L2; multiply it by a strength. With correlated
        taps it is the smooth-kernel penalty (Feinman and Lake, arXiv 1903.01882, who fix the
        determinant instead of the trace).

        Args:
            weight: ``(out, in/groups, *kernel_size)``.
            subspace: for a singular prior, take ``A = Sigma^+`` scaled to ``trace(A) = rank``:
                exact for the filters the prior can draw, again with mean eigenvalue 1 there. The
                part of a filter that lies outside, which the prior holds to be impossible, is
                not penalized. Without effect on other priors.

        Returns:
            Scalar >= 0, differentiable; half-precision weights are summed in float32.

        Raises:
            InputError: another kernel size, or a singular covariance without ``subspace``.
        """
        self._check_size(tuple(weight.shape[2:]), f"a weight of shape {tuple(weight.shape)}")
        taps = self._variance.numel()
        if self.is_singular and not subspace:
            raise InputError(self._singular())
        wide = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
        if self.is_diagonal:
            precision = 1.0 / self._variance
            precision = precision * (taps / precision.sum())
            return (wide.square() * precision.to(wide)).sum()
        with torch.autocast(weight.device.type, enabled=False):
            # A sum of squares: w'Aw itself rounds to below 0 where A is ill-conditioned.
            return (wide.reshape(-1, taps) @ self._root.to(wide)).square().sum()
