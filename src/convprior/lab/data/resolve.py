"""Finds the source that a name means."""

from convprior.errors import InputError
from convprior.lab.data.digits import open_digits
from convprior.lab.data.source import Source


def open_source(name: str) -> Source:
    """Opens a data source; no image is decoded."""
    if name == "digits":
        return open_digits()
    raise InputError(f"source (={name!r}) is unknown")
