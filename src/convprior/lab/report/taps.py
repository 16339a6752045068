"""``convprior inspect --taps``: tap profiles of networks, as text, picture or data."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from convprior import __version__
from convprior._files import write_atomic, write_json
from convprior.errors import InputError
from convprior.filters import TapProfile, tap_profile
from convprior.filters.filter_banks import Source, read_weights
from convprior.filters.selection import convolutions_of, unwrap
from convprior.filters.taps.conclusion import conclusion
from convprior.lab.report.local_layers import LocalLayers, find_local, fits
from convprior.lab.report.targets import open_target
from convprior.lab.study.tables import printable

FORMAT = 1
"""Of the JSON file."""

_CONFIDENCE = 0.95
_ENDINGS = (".html", ".svg", ".json", ".csv")


@dataclass(frozen=True)
class Inspected:
    """The tap profile of one network.

    Attributes:
        target: the path or name that the user gave.
        about: what it is.
        network: a module or the weights by name.
        profile: of its convolutions; empty if all of its layers have kernels at each position.
        local: its local layers, if it has any.
    """

    target: str
    about: str
    network: Source
    profile: TapProfile
    local: LocalLayers | None = None


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
        local = find_local(target, layers)
        rules = _of_convolutions(target.network, layers, local)
        if rules is None:
            profile = TapProfile((), _CONFIDENCE, 0, 0)
        else:
            try:
                profile = tap_profile(target.network, initial=target.initial, include=rules or None)
            except InputError as error:
                where = "" if name in str(error) else f"{name}: "
                raise InputError(f"{where}{error}") from error
        found.append(Inspected(name, target.about, target.network, profile, local))
    return found


def _of_convolutions(
    network: Source, layers: Sequence[str], local: LocalLayers | None
) -> list[str] | None:
    """The patterns without those of local layers that have no taps to profile; None: no layer has.

    A low-rank layer is a convolution here, whose filters are its bases.
    """
    if local is None:
        return list(layers)
    if isinstance(network, nn.Module):
        names = list(convolutions_of(unwrap(network)))
    else:
        assert isinstance(network, str | os.PathLike)
        weights = read_weights(network)
        names = [key.rpartition(".")[0] for key in weights if key.endswith("weight")]
    if not layers:
        return [] if names else None
    own = [one.name for one in local.report]
    rules = [
        rule
        for rule in layers
        if any(fits(rule, name) for name in names) or not any(fits(rule, name) for name in own)
    ]
    return rules or None


def text(inspected: Sequence[Inspected]) -> str:
    """What each profile shows and its table, one below the other; then the local layers."""
    parts = []
    for one in inspected:
        head = f"{printable(one.target)}: {printable(one.about)}\n"
        taps = f"{conclusion(one.profile)}\n\n{one.profile.table()}" if len(one.profile) else ""
        local = one.local.text() if one.local else ""
        parts.append(head + "\n\n".join(filter(None, (taps, local))))
    return "\n\n".join(parts)


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
            {"target": one.target, "about": one.about, **one.profile.as_dict()}
            | ({"local": one.local.as_dict()} if one.local else {})
            for one in inspected
        ]
        write_json(path, {"format": FORMAT, "version": __version__, "profiles": profiles})
    elif path.suffix == ".csv":
        parts = [one.profile.to_csv(target=one.target) for one in inspected if len(one.profile)]
        if not parts:
            raise InputError(f"no layer has taps, so {path} would be empty; choose .json or .html")
        # One head for all.
        write_atomic(path, "".join([parts[0], *(p.partition("\n")[2] for p in parts[1:])]))
    else:
        from convprior.lab.report.tap_page import render_page, render_svg

        render = render_page if path.suffix == ".html" else render_svg
        write_atomic(path, render(inspected))
