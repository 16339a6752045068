"""The training loop."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from convprior._random import mix
from convprior.lab.data import Prepared, training_batches
from convprior.lab.train.depthwise import depthwise_in_float32
from convprior.lab.train.optimizers import learning_rate
from convprior.lab.train.priors import prior_form
from convprior.lab.train.state import Training

# Keeps dropout's random numbers apart from those of order, augmentation and initial weights.
_DROPOUT = 0xD209


def fit(training: Training, data: Prepared, after_step: Callable[[], None] | None = None) -> None:
    """Trains from the examples already seen to the budget.

    One step is, in this order: forward in the recipe's precision, mean loss of the global batch,
    backward, the prior's gradient, clipping, the prior's decay, the optimizer, the average.
    Depthwise convolutions that are slow in bf16 on a CPU compute in float32.

    Args:
        training: the network and all that changes with it; updated in place.
        data: training images, on the device of the network.
        after_step: called after each step; what it raises ends the loop with a consistent state.

    Raises:
        Diverged: the loss became infinite or not a number.
    """
    recipe, world, meter = training.recipe, training.world, training.meter
    budget, objective = recipe.budget, training.objective
    prior, average, optimizer = training.prior, training.average, training.optimizer
    penalty = prior if prior_form(recipe) == "penalty" else None
    decoupled = prior if prior_form(recipe) == "decoupled" else None
    device = world.device
    dtype = training.dtype
    network = world.replicate(training.model).train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    random = torch.cuda.default_generators[device.index] if device.type == "cuda" else None
    batches = training_batches(
        data.train,
        budget.batch_size,
        seed=recipe.seed,
        mean=data.mean,
        std=data.std,
        augment=data.augment,
        dtype=dtype,
        rank=world.rank,
        world_size=world.size,
        first_step=training.step,
    )
    # Dropout draws from the global generator, which the caller gets back as it was.
    kept = torch.random.fork_rng(devices=[] if random is None else [device])
    fast = depthwise_in_float32(training.model, dtype)
    with kept, fast, objective.attached(training.model):
        while not training.finished:
            begun = time.perf_counter()
            first = training.examples
            last = min(first + budget.batch_size, budget.examples)
            lr = learning_rate(recipe.optimizer, (first + last) / 2 / budget.examples)
            for group in optimizer.param_groups:
                group["lr"] = lr
            (random or torch.default_generator).manual_seed(
                mix(recipe.seed, _DROPOUT, first, world.rank)
            )
            x, y, _ = next(batches)
            if last - first < budget.batch_size:
                x, y = _cut(x, first, last, training), _cut(y, first, last, training)

            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = network(x)
            logits = logits.float()
            loss: Tensor = objective(logits, y, last - first)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if penalty is not None:
                penalty.add_gradient_()
            if recipe.optimizer.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip)
            if decoupled is not None:
                decoupled.decay_(lr)
            optimizer.step()
            if average is not None:
                average.update(training.step)

            correct = (logits.detach().argmax(1) == y).sum()
            meter.add(loss.detach(), correct, training.step, first, last, lr)
            training.examples = last
            training.seconds += time.perf_counter() - begun
            if after_step is not None:
                after_step()
        meter.flush()


def _cut(share: Tensor, first: int, last: int, training: Training) -> Tensor:
    """Cuts this process's share of a batch to the samples before ``last``."""
    size, world = training.recipe.budget.batch_size, training.world
    begin = first + size * world.rank // world.size
    return share[: max(0, last - begin)]
