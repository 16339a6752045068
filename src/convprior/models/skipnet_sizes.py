"""SkipNets by size, their ablations and the MobileNetV3-Large they come from.

Paper: L. Abrahamyan et al., "Bias Loss for Mobile Neural Networks", ICCV 2021 (arXiv 2107.11170).

Reference code: github.com/lusinlu/bias-loss-skipblocknet, whose author gives the sizes in issue 6.

Differences: those of :class:`SkipNet`. Every function has its arguments ``num_classes``,
``in_chans``, ``small_input``, ``width`` (channels of the stem) and ``dropout``; the counts told
are those of 1000 classes and 224 px, one multiply-add in convolutions and linear layers as one.
"""

from convprior.models.skipnet import MOBILENET_V3_LARGE, SkipNet


def skipnet_xs(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 8,
    dropout: float | None = None,
) -> SkipNet:
    """SkipNet-XS: 2,328,680 parameters, 76.2 million MACs."""
    return SkipNet(num_classes, in_chans, small_input, width=width, dropout=dropout, hidden=1024)


def skipnet_s(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 12,
    dropout: float | None = None,
) -> SkipNet:
    """SkipNet-S: 3,587,416 parameters, 170.2 million MACs."""
    return SkipNet(num_classes, in_chans, small_input, width=width, dropout=dropout, hidden=1024)


def skipnet_m(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 16,
    dropout: float | None = None,
) -> SkipNet:
    """SkipNet-M: 5,532,352 parameters, 236.6 million MACs."""
    return SkipNet(num_classes, in_chans, small_input, width=width, dropout=dropout)


def skipnet_l(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 18.4,
    dropout: float | None = None,
) -> SkipNet:
    """SkipNet-L: 7,134,360 parameters, 351.8 million MACs."""
    return SkipNet(num_classes, in_chans, small_input, width=width, dropout=dropout)


def skipnet_m_no_skips(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 16,
    dropout: float | None = None,
) -> SkipNet:
    """SkipNet-M without its skips: 5,519,592 parameters, 229.7 million MACs."""
    return SkipNet(num_classes, in_chans, small_input, width=width, dropout=dropout, skips=False)


def mobilenet_v3_large(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 16,
    dropout: float | None = None,
) -> SkipNet:
    """MobileNetV3-Large: 5,483,032 parameters, 216.6 million MACs; 236.1 million at width 17."""
    return SkipNet(
        num_classes,
        in_chans,
        small_input,
        width=width,
        dropout=dropout,
        rows=MOBILENET_V3_LARGE,
        skips=False,
    )


def mobilenet_v3_large_skips(
    num_classes: int = 1000,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    width: float = 16,
    dropout: float | None = None,
) -> SkipNet:
    """MobileNetV3-Large with SkipNet's skips: 5,495,792 parameters, 223.5 million MACs."""
    return SkipNet(
        num_classes, in_chans, small_input, width=width, dropout=dropout, rows=MOBILENET_V3_LARGE
    )
