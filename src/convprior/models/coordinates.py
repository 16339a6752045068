"""Coordinate channels: the position of every pixel, appended to the image.

Paper: R. Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv
solution", NeurIPS 2018 (arXiv 1807.03247).

Reference code: ``coord_conv`` of google-research/low_rank_local_connectivity, which appends the
two channels to the image only, as here; the paper's layer appends them in every convolution.

Differences: none.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class AddCoordinates(nn.Module):
    """Appends two channels: the row and the column of a pixel, each from -1 to 1.

    Example:
        >>> AddCoordinates()(torch.zeros(1, 3, 2, 2))[0, 3:].tolist()
        [[[-1.0, -1.0], [1.0, 1.0]], [[-1.0, 1.0], [-1.0, 1.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, c, h, w) to (n, c + 2, h, w)."""
        height, width = x.shape[-2:]
        rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)
        columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
        shape = (len(x), 1, height, width)
        return torch.cat([x, rows[:, None].expand(shape), columns.expand(shape)], 1)


def with_coordinates(network: nn.Module) -> nn.Sequential:
    """A network that sees coordinates: ``coordinates`` before ``network``.

    Args:
        network: built for two channels more than the images have, for example by
            ``create_model(name, in_chans=3 + 2)``.
    """
    return nn.Sequential(OrderedDict(coordinates=AddCoordinates(), network=network))
