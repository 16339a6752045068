"""Which of a network's intermediate maps are asked for, in timm's manner."""

from collections.abc import Sequence

from convprior.errors import InputError


def positions_of(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Positions among ``count`` maps: all, the last so many, or those given, in ascending order."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise InputError(f"the last {indices} of {count} maps do not exist; give 1 to {count}")
        return list(range(count - indices, count))
    for index in indices:
        if not -count <= index < count:
            raise InputError(
                f"there is no map {index}; give positions from {-count} to {count - 1}"
            )
    return sorted({index % count for index in indices})
