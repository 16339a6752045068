"""The views of ``convprior inspect``: texts to show, and files to write on the way."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from convprior.errors import InputError
from convprior.lab.report.taps import check_ending


def view_taps(
    targets: Sequence[str],
    *,
    pretrained: bool,
    model: str | None,
    layers: Sequence[str],
    out: Path | None,
    save_prior: Path | None,
    shrinkage: float,
    per: Literal["layer", "kernel_size"],
) -> Iterator[str]:
    """Tap profiles and local layers; see the options of the command.

    Raises:
        InputError: an option or a target is wrong.
        RunError: a target cannot be read, or a file not written.
    """
    from convprior.lab.report.saved_priors import check_shrinkage, save_measured
    from convprior.lab.report.taps import inspect_taps, text, write_taps

    check_shrinkage(shrinkage, save_prior)
    if out is not None:
        check_ending(out)
    found = inspect_taps(targets, pretrained=pretrained, model=model, layers=layers)
    yield text(found)
    if save_prior is not None:
        yield f"\n{save_measured(found, save_prior, per, shrinkage)}"
    if out is None:
        yield "\nAdd --out taps.html to see the filters as heat maps."
    else:
        write_taps(found, out)
        yield f"\nwritten: {out}"


def view_diversity(
    targets: Sequence[str],
    *,
    pretrained: bool,
    model: str | None,
    layers: Sequence[str],
    data: str | None,
    overrides: Sequence[str],
    out: Path | None,
) -> Iterator[str]:
    """Feature diversity; see the options of the command.

    Raises:
        InputError: an option or a target is wrong.
        RunError: a target cannot be read, or a file not written.
    """
    from convprior.lab.report.diversity import inspect_diversity, text, write_diversity

    if out is not None:
        check_ending(out)
    found = inspect_diversity(
        targets,
        pretrained=pretrained,
        model=model,
        data=data,
        overrides=overrides,
        layers=layers,
    )
    yield text(found)
    if out is None:
        yield "\nAdd --out diversity.html to see it drawn, --layers all to see every layer."
    else:
        write_diversity(found, out)
        yield f"\nwritten: {out}"


def check_view(diversity: bool, of_taps: dict[str, Any], of_diversity: dict[str, Any]) -> None:
    """Refuses options of a view that is not shown.

    Args:
        diversity: whether that view is.
        of_taps: what was given of the options of the other, by name.
        of_diversity: likewise.

    Raises:
        InputError: names the option and the fix.
    """
    wrong = [name for name, value in (of_taps if diversity else of_diversity).items() if value]
    if wrong and diversity:
        raise InputError(f"{wrong[0]} belongs to --taps and not to --diversity; give one of them")
    if wrong:
        raise InputError(f"{wrong[0]} needs --diversity, the view that shows images to a network")
