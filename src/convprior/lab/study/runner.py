"""The runner: keeps worker processes busy with cells, and survives their death."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

from convprior.errors import RunError
from convprior.lab.study.design import Cell
from convprior.lab.study.store import Store, locked, read_status, write_failure
from convprior.lab.train import as_dict

Message = dict[str, Any]
Listener = Callable[[str, Cell, Message], None]
"""Gets ``"start"``, ``"progress"`` or ``"end"``, the cell, and the message of the worker."""

WORKER = (sys.executable, "-m", "convprior.lab.study.worker")
_STOP_SECONDS = 90.0  # for workers to save their state
_BUSY_SECONDS = 1.0  # between two looks at a cell that another process works on
_LEAST_LIFE_SECONDS = 1.0


@dataclass(eq=False)
class _Worker:
    process: "subprocess.Popen[str]"
    device: str
    errors: IO[str]
    cell: Cell | None = None
    ready: bool = False
    reader: threading.Thread | None = None

    def send(self, job: Message) -> None:
        assert self.process.stdin is not None
        # A worker that has just died is noticed when its output ends.
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()

    def release(self) -> None:
        """Closes its input: it saves its state and leaves."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def last_words(self) -> str:
        """How it ended, as the end of a sentence."""
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"was killed by {name}{hint}"
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return f"ended with code {code}" + (f": {lines[-1][:300]}" if lines else "")


class Runner:
    """Worker processes for the cells of one study; a context manager.

    Args:
        store: where the cells are.
        devices: one worker each: ``["cpu", "cpu"]``.
        threads: of each worker.
        listen: told of everything that happens.
        command: starts a worker.
    """

    def __init__(
        self,
        store: Store,
        devices: Sequence[str],
        threads: int = 1,
        listen: Listener = lambda *_: None,
        command: Sequence[str] = WORKER,
    ) -> None:
        self.store, self.devices, self.threads = store, devices, threads
        self.listen, self.command = listen, command
        self._workers: list[_Worker] = []
        self._inbox: queue.SimpleQueue[tuple[_Worker, Message | None]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, cells: Iterable[Cell], *, retry: bool = False, keep_weights: bool = True) -> None:
        """Runs the cells that have not ended yet; returns when all have.

        Args:
            cells: equal keys are run once.
            retry: run the crashed ones again too.
            keep_weights: keep the trained networks.

        Raises:
            RunError: the disk is full, or workers cannot start.
            KeyboardInterrupt: Ctrl-C; the workers have saved their states.
        """
        wanted = {cell.key: cell for cell in cells}
        again = ("waiting", "interrupted", *(("crashed",) if retry else ()))
        pending = deque(c for c in wanted.values() if self.store.status(c.key)[0] in again)
        busy: deque[tuple[float, Cell]] = deque()
        while pending or busy or any(worker.cell for worker in self._workers):
            while busy and busy[0][0] <= time.monotonic():
                pending.append(busy.popleft()[1])
            self._hand_out(pending, {"keep_weights": keep_weights, "retry": retry})
            try:
                worker, message = self._inbox.get(timeout=_BUSY_SECONDS / 2)
            except queue.Empty:
                continue
            if message is None:
                pending.extend(self._bury(worker))
                continue
            worker.ready = True
            if message["event"] == "progress" and worker.cell is not None:
                self.listen("progress", worker.cell, message)
            elif message["event"] == "end" and worker.cell is not None:
                cell, worker.cell = worker.cell, None
                if message["status"] == "busy":
                    busy.append((time.monotonic() + _BUSY_SECONDS, cell))
                self.listen("end", cell, message)
                if message["fatal"]:
                    raise RunError(message["error"])

    def _hand_out(self, pending: "deque[Cell]", options: Message) -> None:
        for device in self._missing_devices()[: len(pending)]:
            self._workers.append(self._start(device))
        for worker in self._workers:
            if worker.cell is None and pending:
                worker.cell = pending.popleft()
                self.listen("start", worker.cell, {"device": worker.device})
                worker.send(
                    {
                        "folder": str(self.store.cell(worker.cell.key).absolute()),
                        "recipe": as_dict(worker.cell.recipe),
                        "device": worker.device,
                        "threads": self.threads,
                        **options,
                    }
                )

    def _missing_devices(self) -> list[str]:
        idle = sum(worker.cell is None for worker in self._workers)
        missing = list(self.devices)
        for worker in self._workers:
            missing.remove(worker.device)
        return missing if idle == 0 else []

    def _start(self, device: str) -> _Worker:
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            # Ctrl-C in the terminal is for the runner, which then lets the workers save.
            process_group=0,
            env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
        )
        worker = _Worker(process, device, errors)
        worker.reader = threading.Thread(target=self._read, args=(worker,), daemon=True)
        worker.reader.start()
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                # The last line of a worker that was killed may be half a line.
                with contextlib.suppress(ValueError):
                    self._inbox.put((worker, json.loads(line)))
        self._inbox.put((worker, None))

    def _bury(self, worker: _Worker) -> list[Cell]:
        """A worker has died: its cell crashed. Returns the cell if it was never begun."""
        self._workers.remove(worker)
        code, words = worker.process.wait(), worker.last_words()
        self._close(worker)
        if code > 0 and not worker.ready:
            raise RunError(f"a worker process could not start: it {words}")
        if worker.cell is None:
            return []
        if code == 0:  # it was asked to leave just before it was given the cell
            return [worker.cell]
        folder, sentence = self.store.cell(worker.cell.key), f"its worker process {words}"
        with locked(folder) as free:  # not if another process has the cell by now
            if free and read_status(folder)[0] != "finished":
                write_failure(folder, "crashed", sentence)
        self.listen("end", worker.cell, {"status": "crashed", "error": sentence})
        return []

    def _stop(self) -> None:
        """Lets the workers save their states and leave; a second Ctrl-C ends them at once."""
        for worker in self._workers:
            worker.release()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for worker in self._workers:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
        for worker in self._workers:
            self._close(worker)
        self._workers.clear()

    @staticmethod
    def _close(worker: _Worker) -> None:
        worker.release()
        if worker.reader is not None:
            worker.reader.join()
        worker.errors.close()
