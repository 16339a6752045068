"""Which convolutions of a network can become local, and why the others cannot."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from convprior.filters.selection import unwrap
from convprior.filters.taps.layer import size_text
from convprior.filters.taps.table import aligned, shortened
from convprior.local.surgery.survey import Layers, survey


@dataclass(frozen=True)
class LocalizableLayer:
    """One convolution, and whether :func:`convprior.local.localize` changes it.

    Attributes:
        name: of the layer.
        kind: name of its class.
        kernel_size: its taps along each axis.
        input_size: (H, W), or (L,); None where it was not run or had several.
        reason: why it stays a convolution, or None.
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...]
    input_size: tuple[int, ...] | None
    reason: str | None


@dataclass(frozen=True)
class LocalizableLayers:
    """One entry a convolution, in the network's order.

    Attributes:
        layers: the entries.
    """

    layers: tuple[LocalizableLayer, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The layers as plain data, ready for JSON."""
        return [asdict(layer) for layer in self.layers]

    def table(self) -> str:
        """The layers as aligned text."""
        lines = [["layer", "kind", "kernel", "input", "can become local"]]
        for layer in self.layers:
            size = size_text(layer.input_size) if layer.input_size else "-"
            kernel = size_text(layer.kernel_size)
            verdict = "yes" if layer.reason is None else f"no: {layer.reason}"
            lines.append([shortened(layer.name, 40), layer.kind, kernel, size, verdict])
        return aligned(lines, left=5)

    def __str__(self) -> str:
        return self.table()

    def __iter__(self) -> Iterator[LocalizableLayer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def localizable(
    model: nn.Module, example_input: Any, layers: Layers = None, *, subclasses: bool = False
) -> LocalizableLayers:
    """What :func:`localize` would change in a network, what it would leave alone, and why.

    Nothing is changed. What depends on the rank and the result is not foreseen: weights and biases
    that cannot stay tied, parametrizations, and a network that reads a weight itself.

    Args:
        model: as in :func:`localize`.
        example_input: as in :func:`localize`.
        layers: as in :func:`localize`.
        subclasses: as in :func:`localize`.

    Returns:
        An entry for each convolution that ``layers`` means. ``print`` it.

    Raises:
        InputError: ``layers`` matches nothing or is no rule; ``model`` is no module or has no
            convolution.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 1))
        >>> [layer.reason for layer in localizable(net, torch.randn(2, 3, 16, 16))]
        [None, 'has a kernel of one tap: name it in layers']

    Source: our choice.
    """
    return LocalizableLayers(
        tuple(
            LocalizableLayer(
                finding.layer.name,
                type_before_parametrizations(finding.layer.module).__name__,
                tuple(finding.layer.module.kernel_size),
                finding.input_sizes[0] if len(finding.input_sizes) == 1 else None,
                finding.reason or None,
            )
            for finding in survey(unwrap(model), example_input, layers, subclasses).findings
        )
    )
