"""Sums over the features of one layer, taken while a network runs."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from convprior.diagnose.diversity.spectrum import WIDEST, StreamingCovariance
from convprior.errors import InputError
from convprior.filters.cohesion.listening import evaluating
from convprior.losses import feature_variance


class LayerSums:
    """Variances of single images, and the covariance of pooled features, of one layer.

    Of a layer that runs several times for one batch the last time counts. No feature map outlives
    its batch.

    Args:
        name: of the layer.
        side: ``input`` or ``output``.
        optional: what gives no features, such as numbers of positions, is passed over in silence:
            a pattern met it.
    """

    def __init__(self, name: str, side: str, *, optional: bool = False) -> None:
        self.name, self.side, self.optional = name, side, optional
        self.shape: tuple[int, ...] = ()
        self.turn: int | None = None
        """Among the layers in the order in which they were first heard."""
        self._flat: Tensor | None = None
        self._latest: tuple[Tensor, Tensor] | None = None
        self._variances: list[Tensor] = []
        self._covariance = StreamingCovariance()

    def see(self, features: object) -> None:
        """Takes the features of a batch, (n, C, ...) or tokens (n, L, C)."""
        if self.optional and not _has_variance(features):
            return
        if not isinstance(features, Tensor):
            raise InputError(
                f"the {self.side} of layer {self.name!r} is a {type(features).__name__}, not one "
                "tensor; choose a layer inside it"
            )
        self._latest = feature_variance(features, layer=self.name), pooled(features)
        self.shape = tuple(features.shape[1:])
        self._flat = features if features.ndim == 2 else None

    def commit(self, images: int, logits: object = None) -> None:
        """Adds what was seen last, unless a pattern met what gives the network's own output.

        Args:
            images: of the batch.
            logits: the network's output, which is no feature.

        Raises:
            InputError: the layer has not run, or not with one entry an image.
        """
        latest, self._latest = self._latest, None
        flat, self._flat = self._flat, None
        if self.optional and (latest is None or len(latest[0]) != images):
            return
        if self.optional and flat is not None and flat is logits:
            return
        if latest is None:
            raise InputError(
                f"layer {self.name!r} does not run in evaluation mode; choose another layer"
            )
        if len(latest[0]) != images:
            raise InputError(
                f"layer {self.name!r} has {len(latest[0])} entries for a batch of {images}; choose "
                "a layer with one an image"
            )
        self._variances.append(latest[0])
        self._covariance.add(latest[1])

    def __len__(self) -> int:
        return sum(map(len, self._variances))

    def variance(self) -> Tensor:
        """(N,) of all images, on the CPU."""
        return torch.cat(self._variances).cpu()

    def spectrum(self) -> Tensor:
        """(C,) eigenvalues of the pooled features' covariance."""
        return self._covariance.spectrum()

    def note(self) -> str:
        """What the spectrum leaves out, or empty."""
        if not self._covariance.skipped:
            return ""
        return f"its ranks are of the first {WIDEST:,} images, as its vectors are longer than that"


def pooled(features: Tensor) -> Tensor:
    """One vector an image: the mean over positions of (n, C, ...), over tokens of (n, L, C)."""
    if features.ndim == 2:
        return features
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    positions = (1,) if features.ndim == 3 else tuple(range(2, features.ndim))
    return features.mean(positions, dtype=dtype)


@contextmanager
def listening(model: nn.Module, sums: Iterable[LayerSums]) -> Iterator[None]:
    """Runs a network in evaluation mode, each of these layers heard by its sums.

    Afterwards the network is what it was: the mode of every module, and no hook.
    """
    modules = dict(model.named_modules())
    turns = count()
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        if any(_is_compiled(module) for module in modules.values()):
            # Compiled parts run without the hooks that came after their compilation.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for one in sums:
            module, hook = modules[one.name], _hook(one, turns)
            if one.side == "input":
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                handle = module.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _hook(sums: LayerSums, turns: Iterator[int]) -> Any:
    def see(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *output: object) -> None:
        if sums.turn is None:
            sums.turn = next(turns)
        inputs = (*args, *named.values())
        sums.see(next(iter(output if sums.side == "output" else inputs), None))

    return see


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _has_variance(features: object) -> bool:
    return (
        isinstance(features, Tensor)
        and features.is_floating_point()
        and features.ndim > 1
        and features[0].numel() > 1
    )
