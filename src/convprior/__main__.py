"""``python -m convprior`` and the ``convprior`` command: errors become one sentence."""

import sys

from convprior.errors import ConvPriorError


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
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
