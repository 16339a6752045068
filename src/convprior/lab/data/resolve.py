"""Finds the source that a name means."""

import os
import re
from pathlib import Path

from convprior.errors import InputError, MissingExtraError
from convprior.lab.data.decoded import open_decoded
from convprior.lab.data.digits import open_digits
from convprior.lab.data.folder import open_folder
from convprior.lab.data.hub import NotLoadedError, open_hub
from convprior.lab.data.layout import find_files
from convprior.lab.data.parquet import open_parquet
from convprior.lab.data.positions import NAMES as POSITIONS
from convprior.lab.data.positions import open_positions
from convprior.lab.data.source import Source

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def open_source(name: str) -> Source:
    """Opens a data source: labels are read, no image is decoded.

    The first that exists of:

    1. ``digits``, embedded; ``positions`` and ``positions-shifted``, drawn;
    2. a path: a ``.parquet`` or ``.safetensors`` file, or a folder of Parquet files or of class
       folders;
    3. the same in the folder that the environment variable ``CONVPRIOR_DATA`` names, with or
       without the file's ending;
    4. a data set of the Hugging Face Hub.

    Raises:
        InputError: there is none; says what was looked for where.
    """
    if name == "digits":
        return open_digits()
    if name in POSITIONS:
        return open_positions(name)
    looked = []
    for path in _candidates(name):
        if _exists(path, name):
            return _open_path(path)
        looked.append(str(path))
    if _HUB_NAME.fullmatch(name):
        try:
            return open_hub(name)
        except (MissingExtraError, NotLoadedError) as error:
            looked.append(f"the Hugging Face Hub ({error})")
    folder = os.environ.get("CONVPRIOR_DATA")
    fix = "correct the name" if folder else "correct the name or set CONVPRIOR_DATA to its folder"
    raise InputError(
        f"source (={name!r}) was not found; looked at {', '.join(looked)}: {fix}, or use 'digits', "
        "which is built in"
    )


def _exists(path: Path, name: str) -> bool:
    try:
        return path.exists()
    except OSError as error:  # too long for the file system
        raise InputError(f"source (={name[:80]!r}) cannot be a path: {error}") from error


def _candidates(name: str) -> list[Path]:
    try:
        here = Path(name).expanduser()
    except RuntimeError as error:  # no such user's home
        raise InputError(f"source (={name!r}) cannot be a path: {error}") from error
    paths = [here if here.is_absolute() else Path.cwd() / here]
    folder = os.environ.get("CONVPRIOR_DATA")
    if folder and not here.is_absolute():
        base = Path(folder).expanduser() / name
        paths += [base, *(base.with_name(base.name + end) for end in (".parquet", ".safetensors"))]
    return paths


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return open_parquet(path) if find_files(path, ".parquet") else open_folder(path)
    if path.suffix == ".parquet":
        return open_parquet(path)
    if path.suffix == ".safetensors":
        return open_decoded(path)
    raise InputError(
        f"source (={str(path)!r}) is neither a folder nor a .parquet or .safetensors file: "
        "unpack it, or point to the folder that holds the images"
    )
