"""A folder of image files, one folder a class."""

from collections.abc import Sequence
from pathlib import Path

import torch

from convprior.errors import InputError
from convprior.lab.data.layout import TEST_NAMES, TRAIN_NAMES, files_fingerprint
from convprior.lab.data.source import Part, Source

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


def open_folder(root: Path) -> Source:
    """Opens ``root/CLASS/image`` or ``root/train/CLASS/image`` with ``root/test/CLASS/image``.

    Classes are the folder names in sorted order, images are in sorted order of their paths.
    Without a folder ``test``, a folder ``validation`` or ``val`` is the test set.

    Raises:
        InputError: there is no class folder with images, or the test set has an unknown class.
    """
    train_folder = next((root / name for name in TRAIN_NAMES if (root / name).is_dir()), root)
    classes, train = _open_part(train_folder, None)
    test = None
    if train_folder != root:
        test_folder = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
        if test_folder is not None:
            _, test = _open_part(test_folder, classes)
    return Source(root.resolve().name, classes, train, test)


class FolderPart(Part):
    """Image files with one label each."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int]) -> None:
        self.files = files
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.fingerprint = files_fingerprint(files)

    def read(self, row: int) -> bytes:
        """Returns the content of one file."""
        try:
            return self.files[row].read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.files[row]} cannot be read ({error.strerror}): replace or remove it"
            ) from error

    def where(self, row: int) -> str:
        """Names the file."""
        return str(self.files[row])


def _open_part(folder: Path, known: tuple[str, ...] | None) -> tuple[tuple[str, ...], FolderPart]:
    files: list[Path] = []
    names: list[str] = []
    for below in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        # Hidden are copies that other programs leave beside an image: the same image in training
        # and test (.ipynb_checkpoints), or no image at all (._name, and all of __MACOSX).
        images = sorted(
            file
            for file in below.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )
        files += images
        names += [below.name] * len(images)
    if not files:
        raise InputError(
            f"{folder} has no images in class folders: put them into {folder}/CLASS/, as "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    classes = tuple(sorted(set(names))) if known is None else known
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"{folder} has the class {unknown[0]!r}, which the training folder has not: remove it "
            "or add training images of it"
        )
    number = {name: position for position, name in enumerate(classes)}
    return classes, FolderPart(files, [number[name] for name in names])
