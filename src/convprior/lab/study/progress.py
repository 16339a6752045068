"""How far a run of a study is: counted from the runner's events, shown by :mod:`.live`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convprior.lab.study.design import Cell, Slot, Study
from convprior.lab.study.runner import Message
from convprior.lab.study.store import Store


@dataclass
class Running:
    """A cell in a worker's hands."""

    cell: Cell
    share: float = 0.0
    """Of its examples seen."""
    loss: float | None = None


class Progress:
    """Counts; the unit of work is an example seen, since cells may differ in budget.

    Args:
        study: the study.
        store: its folder.
        changed: called after every event.
    """

    def __init__(self, study: Study, store: Store, changed: Callable[[], None]) -> None:
        self.study, self.store, self.changed = study, store, changed
        self.title = ""
        self.cells: dict[str, Cell] = {}
        self.ended: dict[str, str] = {}
        self.running: dict[str, Running] = {}
        self.problems: list[str] = []
        self.final: list[Cell] = []
        self._later = 0
        self._worked = 0.0
        self._ended_here = 0
        self._began = time.monotonic()

    def begin(self, title: str, cells: Sequence[Cell], *, later: int = 0, retry: bool) -> None:
        """Starts a phase.

        Args:
            title: of the phase.
            cells: of the phase; those that have ended are counted as such.
            later: examples of the phases to come, for the time left.
            retry: crashed cells are run again.
        """
        self.title, self._later = title, later
        self.cells = {cell.key: cell for cell in cells}
        self.running = {}
        states = {key: self.store.status(key)[0] for key in self.cells}
        again = ("waiting", "interrupted", *(("crashed",) if retry else ()))
        self.ended = {key: state for key, state in states.items() if state not in again}
        self.changed()

    def listen(self, event: str, cell: Cell, message: Message) -> None:
        """The runner's listener."""
        if event == "start":
            self.running[cell.key] = Running(cell)
        elif event == "progress" and cell.key in self.running:
            now = self.running[cell.key]
            share = message["examples"] / message["total"]
            self._worked += (share - now.share) * cell.recipe.budget.examples
            now.share, now.loss = share, message["loss"]
        elif event == "end":
            now = self.running.pop(cell.key, Running(cell))
            if message["status"] != "busy":
                self.ended[cell.key] = message["status"]
                self._ended_here += 1
                self._worked += (1 - now.share) * cell.recipe.budget.examples
            if message["status"] in ("crashed", "diverged"):
                self.problems.append(f"{name_of(cell)} {message['status']}: {message['error']}")
        self.changed()

    def counts(self) -> str:
        """Cells by status: "12 of 30 cells, 1 crashed"."""
        states = list(self.ended.values())
        words = [f"{len(states)} of {len(self.cells)} cells"]
        for state in ("crashed", "diverged", "interrupted"):
            if state in states:
                words.append(f"{states.count(state)} {state}")
        return ", ".join(words)

    def seconds_left(self) -> float | None:
        """The estimate from the work done since the start; None until a first cell has ended.

        Before that, starting the workers and opening the data outweigh the work.
        """
        elapsed = time.monotonic() - self._began
        if self._ended_here == 0:
            return None
        left = float(self._later)
        for key, cell in list(self.cells.items()):
            now = self.running.get(key)
            if key not in self.ended:
                left += (1 - (now.share if now else 0.0)) * cell.recipe.budget.examples
        return left * elapsed / self._worked

    def means(self) -> list[tuple[Slot, int, float, float | None]]:
        """For each slot with results: cells, mean accuracy, and mean difference to the baseline.

        Both in percent; the difference is over the pairs that are complete.
        """
        found: dict[Slot, dict[tuple[int, int], float]] = {}
        for cell in self.final:
            if cell.key in self.ended:
                metrics = self.store.status(cell.key)[1]
                if metrics is not None:
                    accuracy = 100 * metrics["accuracy"]
                    found.setdefault(cell.slot, {})[cell.split, cell.seed] = accuracy
        rows = []
        for slot, values in found.items():
            other = found.get(slot._replace(arm=self.study.baseline), {})
            pairs = [values[pair] - other[pair] for pair in values.keys() & other.keys()]
            difference = sum(pairs) / len(pairs) if pairs else None
            if slot.arm == self.study.baseline:
                difference = None
            rows.append((slot, len(values), sum(values.values()) / len(values), difference))
        return rows


def name_of(cell: Cell) -> str:
    """A cell in words: "locality, digits, plain_cnn, split 0, seed 1"."""
    return f"{', '.join(cell.slot)}, split {cell.split}, seed {cell.seed}"
