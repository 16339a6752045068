"""Do images with more diverse features get better answers? One pass over a set of images."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from fnmatch import fnmatchcase
from itertools import islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convprior.diagnose.diversity.arguments import Layers, checked, checked_layers
from convprior.diagnose.diversity.deciles import count_text
from convprior.diagnose.diversity.layer import describe
from convprior.diagnose.diversity.listening import LayerSums, listening
from convprior.diagnose.diversity.result import FeatureDiversity
from convprior.errors import InputError
from convprior.filters.selection import convolutions_of, unwrap
from convprior.losses import FeatureTap


def feature_diversity(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Layers = None,
    max_batches: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    confidence: float = 0.95,
    alpha: float = 0.3,
    beta: float = 0.3,
    batch_size: int = 128,
    seed: int = 0,
) -> FeatureDiversity:
    r"""Measures what Bias Loss supposes: that features which vary little mean random predictions.

    For each image the variance ``v_i`` of its features (all channels and positions together), its
    cross-entropy and whether it is classified correctly; from these, layer by layer, how well
    ``v`` tells right from wrong answers, its rank correlation with the loss, the accuracy by
    decile of ``v``, a test of the lowest decile against chance, and the weights that Bias Loss
    would give. Further the effective rank of the features, ``exp`` of the entropy of the
    normalized eigenvalues of the covariance of pooled feature vectors.

    Variances are compared between images of one network and one layer; their size itself means
    nothing, and neither does it between layers.

    Args:
        model: maps images to logits (n, classes); compiled and data-parallel wrappers are looked
            through, parts of it that are compiled run eagerly. Its modes are restored.
        loader: batches (images, labels, ...), as the network gets them; labels are class numbers.
        layers: None: the tensor before the last global pooling, see
            :class:`~convprior.losses.FeatureTap`. Names: what a FeatureTap takes there. Patterns
            such as ``"layer*"``: the outputs of the modules they match, in the order in which they
            run, without the logits. ``"all"``: the output of every convolution, then the tensor
            before the pooling.
        max_batches: at most so many; None: all.
        device: where batches are sent; None: where the first parameter is.
        dtype: for autocast, bfloat16 or float16; None: without. The loss is computed in float32.
        confidence: of the intervals, in (0, 1).
        alpha: of Bias Loss.
        beta: of Bias Loss.
        batch_size: of the random batches in which its weights are computed.
        seed: of these batches.

    Returns:
        A :class:`FeatureDiversity` with one entry a layer.

    Raises:
        InputError: a layer is not found or gives no features, labels are no class numbers, or
            there is no image.

    Example:
        >>> net = create_model("plain_cnn", in_chans=1, small_input=True, seed=0)
        >>> batches = [(torch.rand(32, 1, 8, 8), torch.randint(10, (32,))) for _ in range(4)]
        >>> result = feature_diversity(net, batches)
        >>> result.images, len(result), 0 <= result.accuracy <= 1
        (128, 1, True)

    Source: the supposition is that of Abrahamyan et al. (arXiv 2107.11170); how it is tested here
    is our choice.
    """
    max_batches, dtype, settings = checked(
        max_batches, dtype, confidence, alpha, beta, batch_size, seed
    )
    layers = checked_layers(layers)
    network = unwrap(model)
    sums = _sums(network, layers)
    losses: list[Tensor] = []
    predicted: list[Tensor] = []
    given: list[Tensor] = []
    classes = 0
    with ExitStack() as stack:
        tap: FeatureTap | None = None
        if layers in (None, "all"):
            tap = stack.enter_context(FeatureTap(network))
        stack.enter_context(listening(network, sums))
        before_pooling: LayerSums | None = None
        for images, labels in _batches(loader, max_batches, network, device):
            with _autocast(images.device, dtype):
                output = _output(network(images))
            logits = _logits(output, len(images))
            classes = logits.shape[1]
            labels = _checked(labels, len(images), classes).to(logits.device)
            if tap is not None:
                if before_pooling is None:
                    before_pooling = LayerSums(str(tap.layer), str(tap.side))
                before_pooling.see(tap.pop())
                before_pooling.commit(len(images))
            for one in sums:
                one.commit(len(images), output)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            losses.append(cross_entropy(logits, labels, reduction="none"))
            # argmax takes NaN for the largest.
            answered = ~logits.isnan().any(1)
            predicted.append(logits.argmax(1).where(answered, -1))
            given.append(labels)
    if not losses:
        raise InputError("the loader gave no batch; give at least one, and max_batches >= 1")
    loss, predictions, answers = (torch.cat(one).cpu() for one in (losses, predicted, given))
    correct = predictions == answers
    heard = [one for one in sums if one.turn is not None and len(one) == len(loss)]
    heard.sort(key=attrgetter("turn"))
    if before_pooling is not None:
        heard.append(before_pooling)
    if not heard:
        raise InputError(f"layers={layers!r} meets no module that gives features; give other names")
    found = tuple(
        describe(
            one.name, one.side, one.shape, one.variance(), one.spectrum(),
            loss, correct, classes, settings, answers, predictions, one.note(),
        )
        for one in heard
    )  # fmt: skip
    return FeatureDiversity(found, loss, correct, classes, settings, answers, predictions)


def _sums(network: nn.Module, layers: Layers) -> list[LayerSums]:
    """The named layers in the order of the network."""
    if layers is None:
        return []
    if layers == "all":
        return [LayerSums(name, "output", optional=True) for name in convolutions_of(network)]
    rules = [layers] if isinstance(layers, str) else list(layers)
    names = [name for name, _ in network.named_modules() if name]
    sides = {}
    for rule in rules:
        if not any(fnmatchcase(name, rule) for name in names if rule not in names):
            with FeatureTap(network, rule) as tap:  # knows the side, and names that are near
                sides[rule] = str(tap.side)
    return [
        LayerSums(name, sides.get(name, "output"), optional=name not in sides)
        for name in names
        if name in sides or any(fnmatchcase(name, rule) for rule in rules)
    ]


def _batches(
    loader: Iterable[Any],
    max_batches: int | None,
    network: nn.Module,
    device: torch.device | str | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images where the network is, in its dtype, with their labels."""
    first = next(network.parameters(), None)
    if device is None and first is not None:
        device = first.device
    if not isinstance(loader, Iterable):
        raise InputError(
            f"the loader is a {type(loader).__name__}; give an iterable of batches (images, labels)"
        )
    for batch in islice(loader, max_batches):
        if isinstance(batch, Mapping):
            raise InputError(
                f"a batch is a {type(batch).__name__} of {', '.join(map(repr, batch))}; give "
                "pairs, such as ((b['image'], b['label']) for b in loader)"
            )
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise InputError(
                f"a batch is a {type(batch).__name__}; give an iterable of batches "
                "(images, labels), or longer sequences that start so"
            )
        images, labels = batch[:2]
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise InputError(
                f"images are {kind}; give floating tensors as the network gets them, normalized"
            )
        if not isinstance(labels, Tensor):
            labels = _as_tensor(labels)
        if len(images):
            yield images.to(device, None if first is None else first.dtype), labels


def _as_tensor(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels are {type(labels).__name__}; give class numbers") from error


def _output(output: object) -> object:
    return getattr(output, "logits", output)


def _logits(logits: object, images: int) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images:
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"the network gives {shown} for a batch of {images}; logits (n, classes) fit"
        )
    if logits.shape[1] < 2:
        raise InputError("the network has one logit; give one with a logit for each of its classes")
    return logits


def _checked(labels: Tensor, images: int, classes: int) -> Tensor:
    if labels.is_floating_point() or labels.shape != (images,):
        raise InputError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)} for {count_text(images)}; "
            f"give class numbers of shape ({images},)"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels go from {low} to {high} where the network has {classes} classes; give the "
            f"images of a set with the network's classes, numbered 0 to {classes - 1}"
        )
    return labels.long()


def _autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    if dtype in (None, torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(device.type, dtype)
