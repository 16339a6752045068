"""A worker process: trains one cell after another, told by JSON lines on its standard input.

Started as ``python -m convprior.lab.study.worker`` by :mod:`convprior.lab.study.runner`. It stays
alive between cells, since importing PyTorch costs seconds. Its input closing means that nobody
waits any longer, be it Ctrl-C or the death of the parent: it saves its state and leaves.
"""

import errno
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from convprior.errors import ConvPriorError, RunError
from convprior.lab.study.rows import Status
from convprior.lab.study.store import clear_failure, locked, read_status, write_failure

Train = Callable[..., dict[str, Any]]
Message = dict[str, Any]

# An orphan that does not come to a step's end within this time leaves without saving.
_PATIENCE_SECONDS = 60.0
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_cell(
    job: Message, train: Train, tell: Callable[[Message], None], stop: Callable[[], bool]
) -> Message:
    """Runs one cell and records how it ended.

    Args:
        job: ``folder, recipe`` (nested dictionaries) ``, device, threads, keep_weights, retry``.
        train: :func:`convprior.lab.train.train`, or what stands in for it.
        tell: gets progress messages.
        stop: asked whether to save and stop.

    Returns:
        ``status`` (of a :class:`Row`, or ``"busy"``: another process works on this cell),
        ``error``, and ``fatal``: whether other cells would fail alike.
    """
    from convprior.lab.train import Diverged, Interrupted, Recipe, from_dict

    folder = Path(job["folder"])

    def end(status: Status, error: str | None = None, *, fatal: bool = False) -> Message:
        return {"status": status, "error": error, "fatal": fatal}

    def failed(status: Status, error: BaseException) -> Message:
        sentence = str(error) if isinstance(error, ConvPriorError) else _sentence(error)
        if isinstance(error, RunError) and getattr(error.__cause__, "errno", None) in _DISK:
            return end("interrupted", sentence, fatal=True)
        write_failure(folder, status, sentence, traceback.format_exc())
        return end(status, sentence)

    try:
        with locked(folder) as free:
            if not free:
                return {"status": "busy", "error": None, "fatal": False}
            status, _, error = read_status(folder)  # another process may have been here
            ended = (
                ("finished", "diverged") if job["retry"] else ("finished", "diverged", "crashed")
            )
            if status in ended:
                return end(status, error)
            clear_failure(folder)
            try:
                train(
                    from_dict(Recipe, job["recipe"]),
                    folder,
                    device=job["device"],
                    threads=job["threads"],
                    on_progress=tell,
                    should_stop=stop,
                )
            except Interrupted as stopped:
                return end("interrupted", str(stopped))
            except Diverged as diverged:
                return failed("diverged", diverged)
            except Exception as crashed:
                return failed("crashed", crashed)
            if not job["keep_weights"]:
                (folder / "weights.safetensors").unlink(missing_ok=True)
            return end("finished")
    except RunError as unwritable:  # the lock or the failure could not be written
        return end("interrupted", str(unwritable), fatal=True)


def main(train: Train | None = None) -> None:
    """Serves jobs until the input closes or a signal asks to stop."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not look like a message
    stop = threading.Event()
    jobs: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def leave(*_: Any) -> None:
        stop.set()
        jobs.put(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    threading.Thread(target=_listen, args=(sys.stdin, jobs, leave), daemon=True).start()

    def send(event: str, **values: Any) -> None:
        try:
            print(json.dumps({"event": event, **values}), file=channel, flush=True)
        except OSError:
            stop.set()

    from convprior.lab.train import train as ours

    send("ready")
    while (job := jobs.get()) is not None:
        end = run_cell(
            job, train or ours, lambda progress: send("progress", **progress), stop.is_set
        )
        send("end", **end)
        if stop.is_set():
            break


def _listen(
    source: TextIO, jobs: "queue.SimpleQueue[Message | None]", leave: Callable[[], None]
) -> None:
    for line in source:
        jobs.put(json.loads(line))
    leave()
    timer = threading.Timer(_PATIENCE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


if __name__ == "__main__":
    main()
