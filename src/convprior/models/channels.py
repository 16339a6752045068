"""Channel counts of networks that are made narrower or wider.

Paper: none; the rule comes with the MobileNets (M. Sandler et al., arXiv 1801.04381).

Reference code: ``_make_divisible`` of torchvision's ``mobilenet_v2`` and of tensorflow/models.

Differences: none.
"""


def scaled(channels: int, ratio: float) -> int:
    """``ratio * channels`` rounded to a multiple of 8: at least 8 and at least 90 % of the product.

    Example:
        >>> [scaled(channels, 0.5) for channels in (32, 24, 20, 4)]
        [16, 16, 16, 8]
    """
    exact = channels * ratio
    nearest = max(8, 8 * int(exact / 8 + 0.5))
    return nearest if nearest >= 0.9 * exact else nearest + 8
