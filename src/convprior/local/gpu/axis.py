"""Which input pixel meets which tap, along one axis, forward and backward."""

from math import gcd
from typing import NamedTuple

from convprior.local.geometry import Geometry


class Axis(NamedTuple):
    """Targets collect from sources: ``source = scale * index + shift + slide * turn``.

    ``index`` counts ``length`` of the ``targets``, ``origin + step * index``; ``turn`` counts the
    taps that meet them, ``first_tap + tap_step * turn``. Forward, targets are outputs and sources
    are inputs, and every tap meets every output. Backward it is the other way round, and a tap
    meets one input in ``stride``: each remainder of the division by the stride is an ``Axis`` of
    its own, with no tap tried in vain.
    """

    targets: int
    length: int
    origin: int
    step: int
    sources: int
    turns: int
    first_tap: int
    tap_step: int
    scale: int
    shift: int
    slide: int


def forward_axis(geometry: Geometry, axis: int) -> Axis:
    """Outputs collect from inputs, ``source = stride * output - padding + dilation * tap``."""
    return Axis(
        targets=geometry.output_size[axis],
        length=geometry.output_size[axis],
        origin=0,
        step=1,
        sources=geometry.input_size[axis],
        turns=geometry.kernel_size[axis],
        first_tap=0,
        tap_step=1,
        scale=geometry.stride[axis],
        shift=-geometry.padding[2 * axis],
        slide=geometry.dilation[axis],
    )


def backward_axes(geometry: Geometry, axis: int) -> list[Axis]:
    """Inputs collect from outputs, ``source = (input + padding - dilation * tap) / stride``."""
    size, stride = geometry.input_size[axis], geometry.stride[axis]
    padding, dilation = geometry.padding[2 * axis], geometry.dilation[axis]
    common = gcd(stride, dilation)
    axes = []
    for origin in range(min(stride, size)):
        taps = [
            tap
            for tap in range(geometry.kernel_size[axis])
            if (origin + padding - dilation * tap) % stride == 0
        ]
        first = taps[0] if taps else 0
        axes.append(
            Axis(
                targets=size,
                length=len(range(origin, size, stride)),
                origin=origin,
                step=stride,
                sources=geometry.output_size[axis],
                turns=len(taps),
                first_tap=first,
                tap_step=stride // common,
                scale=1,
                shift=(origin + padding - dilation * first) // stride,
                slide=-(dilation // common),
            )
        )
    return axes
