"""Optional dependencies: imported when needed, named when missing."""

import importlib
from types import ModuleType

from convprior.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Imports and returns ``module``.

    Raises:
        MissingExtraError: the module is absent; says which extra of convprior brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: "
            f"pip install 'convprior[{extra}]'",
            name=error.name,
        ) from error
