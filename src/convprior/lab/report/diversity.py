"""``convprior inspect --diversity``: feature diversity of networks, as text, picture or data."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convprior import __version__
from convprior._files import write_atomic, write_json
from convprior._optional import require
from convprior.diagnose import FeatureDiversity, feature_diversity
from convprior.diagnose.diversity.table import overview
from convprior.errors import InputError, RunError
from convprior.lab.data import batches
from convprior.lab.report.diversity_sources import Classifier, open_classifier
from convprior.lab.report.taps import check_ending
from convprior.lab.study.tables import printable

FORMAT = 1
"""Of the JSON file."""

_MOST, _PIXELS = 500, 500 * 90 * 90
"""Images and pixels of a batch, at most."""


@dataclass(frozen=True)
class InspectedDiversity:
    """The feature diversity of one network.

    Attributes:
        target: the path or name that the user gave.
        about: what it is.
        images: name of the set of images.
        diversity: what was measured on them.
    """

    target: str
    about: str
    images: str
    diversity: FeatureDiversity

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, ready for JSON."""
        own = {"target": self.target, "about": self.about, "data": self.images}
        return own | self.diversity.as_dict()


def inspect_diversity(
    targets: Sequence[str],
    *,
    pretrained: bool = False,
    model: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    layers: Sequence[str] = (),
) -> list[InspectedDiversity]:
    """Measures each target on images, on a GPU where there is one; a terminal sees the progress.

    Args:
        targets: run folders, safetensors files, names of networks.
        pretrained: load the published weights of ``timm:`` networks.
        model: the network whose weights a file holds.
        data: the source of the images; runs have their own.
        overrides: ``data.KEY=VALUE`` each.
        layers: names or patterns, or ``all``; empty means the tensor before the global pooling.

    Raises:
        InputError: a target, a layer or images are not found, or do not fit each other.
        RunError: weights could not be downloaded, or a run is not finished.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for name in targets:
        one = open_classifier(
            name,
            pretrained=pretrained,
            model=model,
            data=data,
            overrides=overrides,
            device=device,
        )
        found.append(measure(one, layers))
    return found


def measure(one: Classifier, layers: Sequence[str] = ()) -> InspectedDiversity:
    """The feature diversity of a network on its images.

    Raises:
        InputError: a layer is not found, or the network cannot take images of this size.
        RunError: an image cannot be read.
    """
    try:
        diversity = feature_diversity(
            one.network,
            _shown(one),
            layers=list(layers) or None,
            dtype=one.dtype,
        )
    except InputError as error:
        raise InputError(f"{printable(one.target)}: {error}") from error
    except RuntimeError as error:
        if not _of_shapes(error):
            raise
        height, width = one.images.size
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{printable(one.target)} does not run on images of {width}x{height} px: {reason}; "
            "give its size by --set data.image_size=N"
        ) from error
    return InspectedDiversity(one.target, one.about, one.images.name, diversity)


def _of_shapes(error: RuntimeError) -> bool:
    """Whether PyTorch says that sizes do not fit, which another size of the images may mend."""
    if isinstance(error, RunError | torch.OutOfMemoryError):
        return False
    text = str(error).lower()
    return "memory" not in text and any(word in text for word in ("size", "shape", "channels"))


def _shown(one: Classifier) -> Iterator[Any]:
    """The batches of images, while a terminal shows how far they are."""
    height, width = one.images.size
    size = max(1, min(_MOST, _PIXELS // (height * width)))
    console = require("rich.console", "lab").Console(stderr=True)
    steps = batches(one.images, size, mean=one.mean, std=one.std, dtype=one.dtype)
    track = require("rich.progress", "lab").track
    return iter(
        track(
            steps,
            printable(one.target),
            total=-(-len(one.images) // size),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
    )


def text(inspected: Sequence[InspectedDiversity]) -> str:
    """What each network shows and its table, one below the other; then all in one table."""
    parts = [
        f"{printable(one.target)}: {printable(one.about)}; images: {printable(one.images)}\n"
        f"{one.diversity.conclusion}\n\n{one.diversity.table()}"
        for one in inspected
    ]
    if len(inspected) > 1:
        parts.append(overview((one.target, one.diversity) for one in inspected))
    return "\n\n".join(parts)


def write_diversity(inspected: Sequence[InspectedDiversity], path: Path) -> None:
    """Writes what was measured to one file: a page, a picture, or data, by its ending.

    Raises:
        InputError: another ending.
        RunError: the file cannot be written.
        MissingExtraError: a package of the extra ``lab`` is not installed.
    """
    check_ending(path)
    if path.suffix == ".json":
        networks = [one.as_dict() for one in inspected]
        write_json(path, {"format": FORMAT, "version": __version__, "networks": networks})
    elif path.suffix == ".csv":
        parts = [one.diversity.to_csv(target=one.target, data=one.images) for one in inspected]
        # One head for all.
        write_atomic(path, "".join([parts[0], *(p.partition("\n")[2] for p in parts[1:])]))
    else:
        from convprior.lab.report.diversity_page import render_page, render_svg

        render = render_page if path.suffix == ".html" else render_svg
        write_atomic(path, render(inspected))
