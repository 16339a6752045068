"""``python -m convprior`` and the ``convprior`` command: errors become one sentence."""

import sys

from convprior.errors import ConvPriorError

_INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


def main() -> None:
    """Runs the command line; exit code 1 after an error convprior foresaw, 130 after Ctrl-C."""
    try:
        from convprior._optional import require

        require("typer", "lab")
        require("rich", "lab")
        from convprior.cli import app

        app(prog_name="convprior")
    except ConvPriorError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            _interrupted()
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except PermissionError as error:  # any path of the user's may be one that only others can read
        print(f"error: {error.filename}: {error.strerror}; change its rights", file=sys.stderr)
        sys.exit(1)


def _interrupted() -> int:
    print("\ninterrupted: run the same command again to go on", file=sys.stderr)
    return _INTERRUPTED


if __name__ == "__main__":
    main()
