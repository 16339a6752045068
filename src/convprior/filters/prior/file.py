"""Priors in a file: one safetensors file with a JSON header, exact to the last bit.

The file holds ``"0.variance"``, ``"0.correlation"``, ``"1.variance"`` and so on in float64; the
header says the format's number and each prior's name, kernel size and repr.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convprior._files import load_tensors, save_tensors
from convprior.errors import InputError, RunError

_KIND, _FORMAT = "filter priors", 1


@dataclass(frozen=True)
class StoredPrior:
    """What defines one prior: its parts, and the text that its repr shows."""

    variance: Tensor
    correlation: Tensor
    made: str


def write_priors(path: Path, priors: Mapping[str, StoredPrior]) -> None:
    """Writes ``priors`` in place of ``path``, atomically.

    Raises:
        InputError: ``path`` can be no file's.
        RunError: the file cannot be written.
    """
    if "\0" in str(path):
        raise InputError(f"the path {str(path)!r} contains a null character; give another")
    tensors, entries = {}, []
    for index, (name, prior) in enumerate(priors.items()):
        tensors[f"{index}.variance"] = prior.variance
        tensors[f"{index}.correlation"] = prior.correlation
        size = list(prior.variance.shape)
        entries.append({"name": name, "made": prior.made, "kernel_size": size})
    save_tensors(path, tensors, {"kind": _KIND, "format": _FORMAT, "priors": entries})


def read_priors(path: Path) -> dict[str, StoredPrior]:
    """Reads what :func:`write_priors` wrote; the caller checks that the parts make a prior.

    Raises:
        RunError: the file is absent, damaged, of another kind or of another format.
    """
    if not path.exists():
        raise RunError(
            f"there is no file {str(path)!r}; write one with FilterPrior.save or save_priors"
        )
    try:
        tensors, header = load_tensors(path)
    except RunError as error:
        raise RunError(f"{path} cannot be read as a file of priors: {error.__cause__}") from error
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        fix = "write such a file with FilterPrior.save"
        if any(name.endswith("weight") and 3 <= t.ndim <= 5 for name, t in tensors.items()):
            fix = f"these look like weights: FilterPrior.measured({str(path)!r}) makes a prior"
        raise RunError(f"{path} holds no priors; {fix}")
    if header.get("format") != _FORMAT:
        raise RunError(
            f"{path} has format {header.get('format')!r} and this version of convprior reads "
            f"{_FORMAT}; use the version that wrote it"
        )
    try:
        found = dict(_stored(header["priors"], tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if not found or len(tensors) != 2 * len(found):
        raise damaged(path, f"{len(tensors)} tensors for {len(found)} priors")
    return found


def damaged(path: Path, why: str) -> RunError:
    """The error for a file whose content makes no prior."""
    return RunError(f"{path} is damaged: {why}; save the priors again")


def _stored(entries: Any, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, StoredPrior]]:
    for index, entry in enumerate(entries):
        name, made = entry["name"], entry["made"]
        variance, correlation = tensors[f"{index}.variance"], tensors[f"{index}.correlation"]
        if not all(isinstance(text, str) and text.isprintable() for text in (name, made)):
            raise TypeError("a name is no text")
        if list(variance.shape) != entry["kernel_size"]:
            raise ValueError(f"{name!r} has variances of shape {tuple(variance.shape)}")
        if {variance.dtype, correlation.dtype} != {torch.float64}:
            raise TypeError(f"{name!r} is not in float64")
        yield name, StoredPrior(variance, correlation, made)
