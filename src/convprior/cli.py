"""The command line: ``study``, ``train``, ``inspect``, ``report``, ``list``.

Each command is a thin reading of its options; the work is in the rooms, imported when asked for.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from convprior import __version__
from convprior.errors import RunError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. `budget.examples=5000`."),
]
Source = Annotated[
    str | None,
    typer.Option("--data", help="Image folder, Parquet folder or file, Hub name, or `digits`."),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, ...")]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """The spatial prior of convolutional networks: train, compare arms fairly, report."""
    if show:
        typer.echo(f"convprior {__version__}")
        raise typer.Exit


@app.command()
def study(
    file: Annotated[Path | None, typer.Argument(help="A study file (TOML).")] = None,
    preset: Annotated[str | None, typer.Option(help="A study by name: `convprior list`.")] = None,
    data: Source = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where studies are kept.")] = Path("runs"),
    jobs: Annotated[int | None, typer.Option(help="Worker processes; default one a core.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker.")] = 1,
    device: Device = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Run crashed cells again.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a study file, for editors.")
    ] = False,
) -> None:
    """Compares arms fairly: tunes each alike, trains every cell, tests the paired differences.

    `convprior study FILE.toml` runs a study file, `convprior study --data ./my_images --preset
    quick` a prepared one on your own images. The same command again goes on where it stopped;
    finished cells are never run again. Results, tables and `report.html` are in `runs/NAME`.
    """
    from convprior.lab.study import load_study, run_study, study_schema

    if schema:
        typer.echo(json.dumps(study_schema(), indent=2))
        return
    chosen = load_study(file, preset=preset, data=data, overrides=overrides or [])
    console = Console()
    outcome = run_study(
        chosen,
        out / chosen.name,
        jobs=jobs,
        threads=threads,
        device=device,
        retry=retry,
        console=console,
    )
    _present(outcome.folder, console)
    if outcome.failures:
        raise RunError(
            f"{len(outcome.failures)} of {len(outcome.rows)} cells did not finish, the first: "
            f"{outcome.failures[0].error}; add --retry to run them again"
        )


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe file (TOML).")] = None,
    data: Source = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The folder of this run.")] = Path("runs/train"),
    threads: Annotated[int | None, typer.Option(help="CPU threads; default all cores.")] = None,
    device: Device = "auto",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a recipe file, for editors.")
    ] = False,
) -> None:
    """Trains one network from a recipe; interrupted, the same command goes on.

    Several GPUs: `torchrun --nproc-per-node 8 -m convprior train RECIPE.toml`.
    """
    from convprior.lab.study import load_recipe, recipe_schema
    from convprior.lab.train import Interrupted
    from convprior.lab.train import train as run

    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    chosen = load_recipe(recipe, data=data, overrides=overrides or [])
    first = os.environ.get("RANK", "0") == "0"  # torchrun's: one process speaks for all
    console = Console(stderr=True, quiet=not first)
    if (out / "state.safetensors").exists():
        console.print(f"going on from the state saved in {out}", highlight=False, markup=False)
    with console.status("loading the data") as status:

        def show(progress: dict[str, Any]) -> None:
            status.update(
                f"{progress['examples']:,} of {progress['total']:,} examples, "
                f"loss {progress['loss']:.3f}, {progress['images_per_second']:,.0f} images/s"
            )

        with _StopOnSignal() as stop:
            try:
                metrics = run(
                    chosen, out, device=device, threads=threads, on_progress=show, should_stop=stop
                )
            except Interrupted as interruption:
                typer.echo(str(interruption).partition(";")[0], err=True)
                raise KeyboardInterrupt from None
    if not first:
        return
    typer.echo(
        f"accuracy {100 * metrics['accuracy']:.2f} % of {metrics['evaluated_images']:,} "
        f"{metrics['evaluated_on']} images; weights and metrics in {out}"
    )


@app.command()
def inspect(
    targets: Annotated[
        list[str],
        typer.Argument(help="Run folders, safetensors files, `timm:NAME`, or `convprior list`."),
    ],
    taps: Annotated[
        bool, typer.Option("--taps", help="The size of each tap of the filters (the default).")
    ] = False,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="Do diverse features mean right answers?")
    ] = False,
    data: Source = None,
    overrides: Overrides = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="With the published weights of `timm:NAME`.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Whose weights a file holds; this tells the strides.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="These layers, e.g. `layer1.*`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw or save: a .html, .svg, .json or .csv file.")
    ] = None,
    save_prior: Annotated[
        Path | None,
        typer.Option(
            help="Save one FilterPrior a layer, pooled over the targets; a recipe takes it as "
            "`prior.file`."
        ),
    ] = None,
    shrinkage: Annotated[
        float, typer.Option(help="Share of independent taps in a saved prior, 0 to 1.")
    ] = 0.0,
    per: Annotated[
        Literal["layer", "kernel_size"], typer.Option(help="Save one prior for each of these.")
    ] = "layer",
) -> None:
    """Shows what a network learned, layer by layer.

    How large the center of its filters is: a finished run is compared with its own initial weights.
    Of local layers it also shows how far they are from convolutions, and maps of their weights.

    With --diversity, whether images whose features vary more get right answers, on the evaluation
    images of a run or on --data (with --set data.image_size=N and the like).
    """
    from convprior.lab.report.inspect import check_view, view_diversity, view_taps

    prior = {"--save-prior": save_prior, "--shrinkage": shrinkage, "--per": per != "layer"}
    check_view(diversity, {"--taps": taps, **prior}, {"--data": data, "--set": overrides})
    common: Any = {"pretrained": pretrained, "model": model, "layers": layers or (), "out": out}
    if diversity:
        blocks = view_diversity(targets, data=data, overrides=overrides or (), **common)
    else:
        blocks = view_taps(targets, save_prior=save_prior, shrinkage=shrinkage, per=per, **common)
    for block in blocks:
        typer.echo(block)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A study's folder, e.g. runs/digits.")],
) -> None:
    """Writes tables and report.html of a study again, from what is in its folder."""
    _present(folder, Console())


@app.command("list")
def list_names(
    what: Annotated[
        Literal["models", "presets", "laws", "losses", "keys"] | None,
        typer.Argument(help="Default: all."),
    ] = None,
) -> None:
    """Lists models, presets, laws of decay, losses and the keys of a recipe."""
    from convprior.filters.families import Family
    from convprior.filters.laws import Law
    from convprior.lab.study import list_presets, recipe_keys
    from convprior.lab.train.loss_recipe import LOSSES
    from convprior.models import list_models

    sections: dict[str, tuple[str, Callable[[], list[tuple[str, ...]]]]] = {
        "models": (
            "Models (and timm:NAME for any timm network)",
            lambda: [(", ".join(list_models()),)],
        ),
        "presets": ("convprior study --preset NAME", lambda: list(list_presets().items())),
        "laws": (
            "Laws of a recipe: prior.law",
            lambda: [
                ("uniform", "plain decay, the default"),
                (", ".join(get_args(Law)), "by a tap's distance from the filter's center"),
                ("correlated", f"smooth filters, prior.family: {', '.join(get_args(Family))}"),
                ("file", "a prior measured before, prior.file: convprior inspect --save-prior"),
            ],
        ),
        "losses": ("Losses of a recipe: loss.name", lambda: list(LOSSES.items())),
        "keys": (
            "Keys of a recipe: --set KEY=VALUE",
            lambda: [(key, *entry) for key, entry in recipe_keys().items()],
        ),
    }
    console = Console()
    for name, (title, lines) in sections.items():
        if what not in (None, name):
            continue
        table = Table.grid(padding=(0, 2))
        for line in lines():
            table.add_row(*map(escape, line))
        console.print(f"[bold]{title}[/bold]", Padding(table, (0, 0, 1, 2)), sep="\n")


def _present(folder: Path, console: Console) -> None:
    """Writes tables and report, and prints the table and the sentences."""
    from convprior.lab.report import write_study_report

    written = write_study_report(folder)
    console.print(written.text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nreport: {written.path}", highlight=False, markup=False, soft_wrap=True)


class _StopOnSignal:
    """Ctrl-C or SIGTERM asks the loop to save its state and stop; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def _ask(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> "_StopOnSignal":
        self.previous = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
