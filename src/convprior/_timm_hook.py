"""Registers our networks in timm, whichever of the two packages is imported first.

``import convprior`` must not import timm, which takes seconds and may be absent. So where timm is
not yet imported, a finder on ``sys.meta_path`` waits for it, registers as soon as its code has
run, and takes itself away. Looking for timm without importing it, as
``importlib.util.find_spec`` does, leaves the finder waiting.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_in_timm() -> None:
    """Registers at once where timm is imported, else as soon as it is.

    Example:
        >>> import timm
        >>> timm.create_model("convprior_skipnet_m", num_classes=10).num_classes
        10
    """
    if sys.modules.get("timm") is not None:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds timm where the other finders do; its loader registers after running timm."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        # Only those behind it: another one of this kind in front has asked already.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :] if self in sys.meta_path else []
        able = (finder for finder in others if hasattr(finder, "find_spec"))
        found = (finder.find_spec(name, path, target) for finder in able)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            loader.exec_module = execute  # type: ignore[method-assign]
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register() -> None:
    """A timm that cannot take our networks must still be importable: it gets a warning."""
    try:
        importlib.import_module("convprior.models.timm_registration")
    except Exception as error:
        version = getattr(sys.modules["timm"], "__version__", "of unknown version")
        warnings.warn(
            f"convprior's networks are not in the registry of timm {version} ({error}); "
            "pip install 'convprior[timm]' brings a version that works",
            RuntimeWarning,
            stacklevel=2,
        )
