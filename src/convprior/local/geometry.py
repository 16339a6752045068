"""Where a convolution's kernel lies on its input: sizes, stride, padding, dilation, groups."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from convprior.errors import InputError

Pair = int | Sequence[int]
Padding = Pair | Literal["same", "valid"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class Geometry:
    """The shape arithmetic of a 2-d convolution with padding by zeros.

    Attributes:
        input_size: (H, W), before padding.
        kernel_size: (kh, kw).
        stride: (rows, columns).
        padding: zeros on each side, (top, bottom, left, right).
        dilation: (rows, columns).
        groups: as ``nn.Conv2d`` has it.
    """

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of_conv(
        cls,
        input_size: Pair,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
    ) -> "Geometry":
        """A geometry from arguments that mean what they mean in ``nn.Conv2d``.

        "same" pads ``dilation (kernel_size - 1)`` zeros along an axis, the odd one at the end.

        Raises:
            InputError: a value is no pair of ints in its range, "same" comes with a stride, or the
                kernel does not fit into the padded input.
        """
        kernel, steps = pair(kernel_size, "kernel_size", 1), pair(stride, "stride", 1)
        spread = pair(dilation, "dilation", 1)
        reach = (spread[0] * (kernel[0] - 1), spread[1] * (kernel[1] - 1))
        if padding == "same":
            if steps != (1, 1):
                raise InputError(f"padding is 'same' and stride is {steps}; 'same' needs stride 1")
            top, left = reach[0] // 2, reach[1] // 2
            sides = (top, reach[0] - top, left, reach[1] - left)
        elif padding == "valid":
            sides = (0, 0, 0, 0)
        elif isinstance(padding, str):
            raise InputError(f"padding is {padding!r}; give 'same', 'valid', an int or a pair")
        else:
            rows, columns = pair(padding, "padding", 0)
            sides = (rows, rows, columns, columns)
        size = pair(input_size, "input_size", 1)
        return cls(size, kernel, steps, sides, spread, whole_number(groups, "groups"))

    def __post_init__(self) -> None:
        if min(self.output_size) < 1:
            raise InputError(
                f"a kernel of {self.kernel_size} with dilation {self.dilation} does not fit into "
                f"an input of {self.input_size} with padding (top, bottom, left, right) "
                f"{self.padding}; give a larger input_size or padding"
            )

    @property
    def output_size(self) -> tuple[int, int]:
        """(H', W'), the positions of the kernel."""
        top, bottom, left, right = self.padding
        padded = (self.input_size[0] + top + bottom, self.input_size[1] + left + right)
        rows, columns = (
            (size - spread * (kernel - 1) - 1) // step + 1
            for size, spread, kernel, step in zip(
                padded, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )
        return rows, columns

    @property
    def positions(self) -> int:
        """H' times W'."""
        rows, columns = self.output_size
        return rows * columns

    def already_padded(self) -> "Geometry":
        """The same positions on an input that contains the padding already."""
        top, bottom, left, right = self.padding
        height, width = self.input_size
        size = (height + top + bottom, width + left + right)
        return replace(self, input_size=size, padding=(0, 0, 0, 0))


def pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    """An int or two ints as two ints.

    Raises:
        InputError: it is neither, or one is below ``least``.
    """
    rows, columns = whole_numbers(value, name, least, 2)
    return rows, columns


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """An int, NumPy's among them, as an int of Python.

    Raises:
        InputError: it is none, or below ``least``.
    """
    return whole_numbers(value, name, least, 1)[0]


def whole_numbers(value: Any, name: str, least: int, count: int) -> tuple[int, ...]:
    """``count`` ints, or one that stands for all of them.

    Raises:
        InputError: it is neither, or one is below ``least``.
    """
    one = _whole(value)
    numbers = (one,) * count
    if one is None and isinstance(value, Iterable):
        numbers = tuple(_whole(number) for number in value)
    found = tuple(number for number in numbers if number is not None and number >= least)
    if len(numbers) != count or len(found) != count:
        several = "" if count == 1 else f", or {count} of them"
        raise InputError(f"{name} is {value!r}; give an int >= {least}{several}")
    return found


def check_channels(
    in_channels: Any, out_channels: Any, groups: int, padding_mode: str
) -> tuple[int, int]:
    """Refuses what ``nn.Conv2d`` refuses.

    Returns:
        Both counts as ints of Python.

    Raises:
        InputError: a count is no int >= 1, ``groups`` does not divide both, or there is no such
            mode.
    """
    channels = whole_number(in_channels, "in_channels")
    filters = whole_number(out_channels, "out_channels")
    for name, count in (("in_channels", channels), ("out_channels", filters)):
        if count % groups:
            raise InputError(f"{name} is {count} and groups is {groups}; one must divide the other")
    if padding_mode not in get_args(PaddingMode):
        raise InputError(f"padding_mode is {padding_mode!r}; choose of {get_args(PaddingMode)}")
    return channels, filters


def _whole(value: Any) -> int | None:
    """None for anything but an int: True and 3.0 are none."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    try:
        return operator.index(value)
    except TypeError:
        return None
