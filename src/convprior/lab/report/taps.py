"""``convprior inspect --taps``: tap profiles of networks, as text, picture or data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convprior import __version__
from convprior._files import write_atomic, write_json
from convprior.errors import InputError
from convprior.filters import TapProfile, tap_profile
from convprior.filters.filter_banks import Source
from convprior.filters.taps.conclusion import conclusion
from convprior.lab.report.targets import open_target
from convprior.lab.study.tables import printable

FORMAT = 1
"""Of the JSON file."""

_ENDINGS = (".html", ".svg", ".json", ".csv")


@dataclass(frozen=True)
class Inspected:
    """The tap profile of one network.

    Attributes:
        target: the path or name that the user gave.
        about: what it is.
        network: a module or the weights by name.
        profile: of its convolutions.
    """

    target: str
    about: str
    network: Source
    profile: TapProfile


def inspect_taps(
    targets: Sequence[str],
    *,
    pretrained: bool = False,
    model: str | None = None,
    layers: Sequence[str] = (),
) -> list[Inspected]:
    """Profiles each target.

    Args:
        targets: run folders, safetensors files, names of networks.
        pretrained: load the published weights of ``timm:`` networks.
        model: the network whose weights a file holds.
        layers: names or patterns; empty means all.

    Raises:
        InputError: a target is not found or holds no convolution.
        RunError: weights could not be downloaded, or a run is not finished.
    """
    found = []
    for name in targets:
        target = open_target(name, pretrained=pretrained, model=model)
        try:
            profile = tap_profile(
                target.network, initial=target.initial, include=list(layers) or None
            )
        except InputError as error:
            where = "" if name in str(error) else f"{name}: "
            raise InputError(f"{where}{error}") from error
        found.append(Inspected(name, target.about, target.network, profile))
    return found


def text(inspected: Sequence[Inspected]) -> str:
    """What each profile shows and its table, one below the other."""
    return "\n\n".join(
        f"{printable(one.target)}: {printable(one.about)}\n{conclusion(one.profile)}\n\n"
        f"{one.profile.table()}"
        for one in inspected
    )


def check_ending(path: Path) -> None:
    """Raises InputError unless :func:`write_taps` can write such a file."""
    if path.suffix not in _ENDINGS:
        raise InputError(f"{path} ends in none of {', '.join(_ENDINGS)}; choose one of them")


def write_taps(inspected: Sequence[Inspected], path: Path) -> None:
    """Writes the profiles to one file: a page, a picture, or data, by its ending.

    Raises:
        InputError: another ending.
        RunError: the file cannot be written.
        MissingExtraError: a package of the extra ``lab`` is not installed.
    """
    check_ending(path)
    if path.suffix == ".json":
        profiles = [
            {"target": one.target, "about": one.about, **one.profile.as_dict()} for one in inspected
        ]
        write_json(path, {"format": FORMAT, "version": __version__, "profiles": profiles})
    elif path.suffix == ".csv":
        parts = [one.profile.to_csv(target=one.target) for one in inspected]
        # One head for all.
        write_atomic(path, "".join([parts[0], *(p.partition("\n")[2] for p in parts[1:])]))
    else:
        from convprior.lab.report.tap_page import render_page, render_svg

        render = render_page if path.suffix == ".html" else render_svg
        write_atomic(path, render(inspected))
