"""SkipNet: a MobileNetV3 with two skips from its first block far into the network.

Paper: L. Abrahamyan, V. Ziatchin, Y. Chen, N. Deligiannis, "Bias Loss for Mobile Neural Networks",
ICCV 2021 (arXiv 2107.11170); called SkipblockNet in its third version. MobileNetV3-Large: A. Howard
et al., "Searching for MobileNetV3", ICCV 2019 (arXiv 1905.02244), table 1.

Reference code: github.com/lusinlu/bias-loss-skipblocknet; torchvision's ``mobilenet_v3_large``,
whose names and shapes of parameters ``mobilenet_v3_large`` has, so state dicts move both ways.

Differences: the released code pools to 28 and 14 px and takes 16 channels whatever the network
has, so that XS, L and images of 192, 256 or 32 px crash; here the skips take the channels of the
first block and pool to the size of the map that receives them, which is the same at 224 px.
Weights start from He's law with ``fan_in``, as everywhere here (the authors': ``fan_out``, and
``N(0, 0.01)`` with a standard deviation of 0.01 in linear layers). Batch normalizations have
PyTorch's defaults, as the authors'; torchvision's MobileNetV3 has ``eps=0.001, momentum=0.01``.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convprior.errors import InputError
from convprior.models.channels import scaled
from convprior.models.he import HeLinear
from convprior.models.intermediates import positions_of
from convprior.models.inverted_residual import EarlySkip, Row, SqueezedInvertedResidual, unit

_STEM = 16
_LAST = 6  # channels of the last convolution, in those of the last block
_DROPOUT = 0.2
# Positions in ``features``, where 0 is the stem: the early map and the two that receive it.
_EARLY, _FIRST, _SECOND = 1, 6, 10
# The last map of each resolution; the last of all is the input of the global pooling.
_STAGE_ENDS = (1, 3, 6, 12, 16)
_RE, _HS = nn.ReLU, nn.Hardswish

# Kernel size, expansion, channels, squeeze, activation, stride: table 1 of MobileNetV3.
MOBILENET_V3_LARGE = (
    Row(3, None, 16, False, _RE, 1),
    Row(3, 4, 24, False, _RE, 2),
    Row(3, 3, 24, False, _RE, 1),
    Row(5, 3, 40, True, _RE, 2),
    Row(5, 3, 40, True, _RE, 1),
    Row(5, 3, 40, True, _RE, 1),
    Row(3, 6, 80, False, _HS, 2),
    Row(3, 2.5, 80, False, _HS, 1),
    Row(3, 2.3, 80, False, _HS, 1),
    Row(3, 2.3, 80, False, _HS, 1),
    Row(3, 6, 112, True, _HS, 1),
    Row(3, 6, 112, True, _HS, 1),
    Row(5, 6, 160, True, _HS, 2),
    Row(5, 6, 160, True, _HS, 1),
    Row(5, 6, 160, True, _HS, 1),
)
# SkipNet differs in the first block, which has an expansion, and in the sixth, which is wider.
SKIPNET = (
    Row(3, 1, 16, False, _HS, 1),
    *MOBILENET_V3_LARGE[1:5],
    Row(5, 6, 40, True, _HS, 1),
    *MOBILENET_V3_LARGE[6:],
)


class SkipNet(nn.Module):
    """SkipNet of any size: SkipNet-M by default, 5,532,352 parameters at 1000 classes.

    The methods are those of a timm network, which have arguments without effect here.

    Args:
        num_classes: number of logits; 0 leaves the last layer out.
        in_chans: channels of the images.
        small_input: stride 1 in the stem and in the second block (32 px: maps down to 4 px), for 8
            to 64 px; otherwise the paper's strides (224 px: down to 7 px). The parameters are the
            same, so weights move between the two forms.
        width: channels of the stem; all others scale with it, ``ratio = width / 16``, rounded to
            multiples of 8.
        rows: the fifteen blocks.
        skips: whether the output of the first block is added after blocks 6 and 10.
        hidden: channels between the global pooling and the logits; they scale with ``width``
            above 16 only.
        dropout: probability of dropping one of them; ``None`` is 0.2, and 0 for small images.

    Attributes:
        num_features: channels of the last map, the input of the global pooling.
        head_hidden_size: channels between the global pooling and the logits.
        feature_info: channels and reduction of the five maps of :meth:`forward_intermediates`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
        *,
        width: float = _STEM,
        rows: Sequence[Row] = SKIPNET,
        skips: bool = True,
        hidden: int = 1280,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        ratio = _ratio(width)
        if small_input:
            rows = [row._replace(stride=1) if i == 1 else row for i, row in enumerate(rows)]
        strides = [1 if small_input else 2, *(row.stride for row in rows), 1]
        channels = [scaled(_STEM, ratio), *(scaled(row.channels, ratio) for row in rows)]
        self.num_features = scaled(channels[-1], _LAST)
        self.features = nn.Sequential(
            unit(in_chans, channels[0], 3, _HS, stride=strides[0]),
            *map(SqueezedInvertedResidual, channels, channels[1:], rows),
            unit(channels[-1], self.num_features, 1, _HS),
        )
        channels.append(self.num_features)
        early = channels[_EARLY]
        self.early, self.first, self.second = _EARLY, _FIRST, _SECOND  # for torch.jit.script
        self.skip1 = EarlySkip(early, channels[_FIRST], 5, 6) if skips else None
        self.skip2 = EarlySkip(early, channels[_SECOND], 3, 2.3) if skips else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head_hidden_size = scaled(hidden, max(1.0, ratio))
        if dropout is None:
            dropout = 0.0 if small_input else _DROPOUT
        self.classifier = nn.Sequential(
            HeLinear(self.num_features, self.head_hidden_size),
            nn.Hardswish(inplace=True),
            nn.Dropout(dropout),
            _logits(self.head_hidden_size, num_classes),
        )
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.pooled = True
        self.grad_checkpointing = False
        self.feature_info = [
            {
                "num_chs": channels[end],
                "reduction": math.prod(strides[: end + 1]),
                "module": "skip1" if skips and end == _FIRST else f"features.{end}",
            }
            for end in _STAGE_ENDS
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to the last map (n, num_features, h / 32, w / 32)."""
        return self._maps(x, [len(self.features) - 1])[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps the last map to logits (n, num_classes), or to their input with ``pre_logits``."""
        if not self.pooled:
            return x
        x = torch.flatten(self.avgpool(x), 1)
        last = len(self.classifier) - 2  # timm's hidden features are those before the dropout
        for index, layer in enumerate(self.classifier):
            if index < last or not pre_logits:
                x = layer(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,  # noqa: ARG002
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The last maps of the five resolutions, those of ``feature_info``, after their skips.

        Args:
            x: images (n, in_chans, h, w).
            indices: which maps, in ascending order; the last so many, or all when ``None``.
            norm: without effect; every map is normalized or a sum of normalized maps.
            stop_early: stop at the last map asked for; needs ``intermediates_only``.
            output_fmt: ``"NCHW"``, the only one.
            intermediates_only: return the list of maps instead of (last map, list of maps).

        Raises:
            InputError: an index out of range, another format, or ``stop_early`` alone.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt={output_fmt!r} is not offered; give 'NCHW'")
        if stop_early and not intermediates_only:
            raise InputError("stop_early=True leaves no last map; give intermediates_only=True")
        ends = [_STAGE_ENDS[index] for index in positions_of(indices, len(_STAGE_ENDS))]
        if intermediates_only:
            return self._maps(x, ends)
        maps = self._maps(x, [*ends, len(self.features) - 1])
        return maps[-1], maps[: len(ends)]

    def _maps(self, x: Tensor, wanted: list[int]) -> list[Tensor]:
        """Outputs of the layers at the positions ``wanted``; nothing is computed after the last."""
        maps = []
        early = x
        for index, layer in enumerate(self.features):
            if index <= max(wanted):
                if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
                    x = checkpoint(layer, x, use_reentrant=False)
                else:
                    x = layer(x)
                if index == self.early:
                    early = x
                if self.skip1 is not None and index == self.first:
                    x = self.skip1(x, early)
                if self.skip2 is not None and index == self.second:
                    x = self.skip2(x, early)
                if index in wanted:
                    maps.append(x)
        return maps

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,  # noqa: ARG002
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the layers behind the last map asked for, and the head; returns the positions."""
        positions = positions_of(indices, len(_STAGE_ENDS))
        end = _STAGE_ENDS[max(positions)]
        self.features = self.features[: end + 1]
        if end < _SECOND:
            self.skip2 = None
        if end < _FIRST:
            self.skip1 = None
        self.num_features = cast("int", self.feature_info[max(positions)]["num_chs"])
        if prune_head or end < _STAGE_ENDS[-1]:
            self.reset_classifier(0, "")
            self.classifier = nn.Sequential()
        return positions

    def get_classifier(self) -> nn.Module:
        """The last layer: linear, or the identity of ``num_classes=0``."""
        return self.classifier[-1] if len(self.classifier) else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a new one.

        Args:
            num_classes: number of logits; 0 leaves the layer out.
            global_pool: ``"avg"``; ``""`` makes the network return its last map, without a head;
                ``None`` keeps what it is.

        Raises:
            InputError: another pooling, or classes without a pooling.
        """
        if global_pool is not None and global_pool not in {"avg", ""}:
            raise InputError(f"global_pool={global_pool!r} is not offered; give 'avg' or ''")
        if not len(self.classifier):  # pruned
            if num_classes > 0:
                raise InputError(
                    "prune_intermediate_layers has dropped the head; make a new network"
                )
            return
        pooled = self.pooled if global_pool is None else global_pool == "avg"
        if num_classes > 0 and not pooled:
            raise InputError(f"num_classes={num_classes} needs a pooling; give global_pool='avg'")
        like = next(self.parameters())
        layer = _logits(self.head_hidden_size, num_classes).to(like.device, like.dtype)
        self.classifier[-1] = layer.train(self.training)
        self.num_classes = num_classes
        self.pooled = pooled

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the maps inside each block in the backward pass instead of keeping them.

        Batch normalizations then see each batch twice, as in timm's networks.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:  # noqa: ARG002
        """Patterns that order the parameters by depth, for timm's layer-wise learning rates."""
        return {
            "stem": r"^features\.0\.",
            "blocks": [
                (r"^features\.(\d+)\.", None),
                (r"^skip1\.", (_FIRST,)),
                (r"^skip2\.", (_SECOND,)),
            ],
        }


def _logits(channels: int, num_classes: int) -> nn.Module:
    return nn.Linear(channels, num_classes) if num_classes else nn.Identity()


def _ratio(width: object) -> float:
    if not isinstance(width, int | float) or not 0 < width < math.inf:
        raise InputError(f"width={width!r} is not positive; give channels of the stem, such as 16")
    return width / _STEM
