"""What a running study shows: a live table on a terminal, now and then a line elsewhere."""

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from convprior.lab.study.design import Study
from convprior.lab.study.progress import Progress, name_of
from convprior.lab.study.store import Store

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_LINE_SECONDS = 10.0
_ROWS = 24  # of means; more would not fit on a screen


class Display(AbstractContextManager["Display"]):
    """Shows a study's progress on ``console``, or nothing without one."""

    def __init__(self, study: Study, store: Store, console: "Console | None") -> None:
        self.console = console
        self.progress = Progress(study, store, self._changed)
        self._live: Live | None = None
        self._printed = 0.0
        self._reported = 0

    def __enter__(self) -> Self:
        if self.console is not None and self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, get_renderable=self._table, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
        self.say(self._line())

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self.console is not None and text:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _changed(self) -> None:
        for problem in self.progress.problems[self._reported :]:
            self.say(problem)
        self._reported = len(self.progress.problems)
        if self._live is None and time.monotonic() - self._printed >= _LINE_SECONDS:
            self._printed = time.monotonic()
            self.say(self._line())

    def _line(self) -> str:
        progress = self.progress
        if not progress.cells:
            return ""
        return f"{progress.title}: {progress.counts()}{self._left()}"

    def _left(self) -> str:
        seconds = self.progress.seconds_left()
        return f", about {duration(seconds)} left" if seconds else ""

    def _table(self) -> "RenderableType":
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self.progress
        bar = ProgressBar(
            total=max(len(progress.cells), 1), completed=len(progress.ended), width=60
        )
        parts: list[RenderableType] = [
            Text(self._line(), style="bold"),
            Padding(bar, 0, expand=False),  # a bar alone does not end its line
        ]
        means = progress.means()
        if means:
            table = Table(box=None, pad_edge=False)
            for heading in ("arm", "data", "model"):
                table.add_column(heading)
            for heading in ("cells", "accuracy %", f"minus {progress.study.baseline}"):
                table.add_column(heading, justify="right")
            for slot, count, mean, difference in means[:_ROWS]:
                shown = "" if difference is None else f"{difference:+.2f}"
                table.add_row(*map(Text, slot), str(count), f"{mean:.2f}", shown)
            parts.append(table)
        for now in list(progress.running.values()):
            loss = "" if now.loss is None else f", loss {now.loss:.3f}"
            parts.append(Text(f"  {name_of(now.cell)}: {now.share:.0%}{loss}", style="dim"))
        return Group(*parts)


def duration(seconds: float) -> str:
    """A time in words: "40 s", "3 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
