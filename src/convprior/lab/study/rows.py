"""Rows: what a study knows about its cells, the only thing statistics and reports read."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["finished", "diverged", "crashed", "interrupted", "waiting"]
"""What the files of a cell say.

``finished``: its metrics are there.  ``diverged``: the loss became infinite or not a number, which
a rerun would repeat.  ``crashed``: it raised an error or its process died.  ``interrupted``: it was
stopped and goes on from its saved state.  ``waiting``: nothing has been run.
"""


@dataclass(frozen=True)
class Row:
    """One cell of a study and how it ended.

    Two rows of different arms are a pair when ``data``, ``model``, ``split`` and ``seed`` agree.
    """

    arm: str
    """Name of the arm in the study file."""
    data: str
    """Label of the data set, unique within the study: "digits"."""
    model: str
    """Label of the network, unique within the study: "wrn16_2"."""
    split: int
    """Index of the training subset."""
    seed: int
    """Seed of initialization, data order and augmentation."""
    key: str
    """Hash of the cell's full recipe; the name of its folder."""
    status: Status
    metrics: dict[str, Any] | None = None
    """The cell's ``metrics.json`` when it is finished, otherwise None."""
    error: str | None = None
    """One sentence when it diverged, crashed or was interrupted, otherwise None."""
