"""Training of a classifier on a sample: the default training loop of starts by training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from headstart.errors import DataError, HeadstartError
from headstart.fitting import samples
from headstart.model import inputs
from headstart.model.inputs import GetInputs
from headstart.restoring import Step, put_back

OnEpoch = Callable[[nn.Module, int], None]


@runtime_checkable
class Fit(Protocol):
    """Train a model in place on a data set for some epochs, with its own optimizer and schedule.

    If its attribute ``takes_epochs`` is true, it also takes a list of data sets, one for each epoch.
    """

    def __call__(self, model: nn.Module, dataset: Dataset[Any], epochs: int) -> object:
        """Train. The return value is not used."""


@dataclass(frozen=True)
class Classify:
    """Train a classifier by cross-entropy: AdamW, and a learning rate that falls by a factor after every epoch.

    Args:
        lr: Learning rate.
        decay: Its factor after every epoch.
        weight_decay: The weight decay of AdamW.
        batch_size: Images per step; the batches of an epoch differ in size by at most one image.
        frozen_batches: Draw batches and augmentations once and repeat them in every epoch (as published), instead
            of new ones.
        get_inputs: For batches of any other form.

    Example:
        >>> net, data = nn.Linear(4, 2), (torch.randn(20, 4), torch.arange(20) % 2)
        >>> steps = Classify(batch_size=8)(net, samples.as_dataset(data), epochs=3)
        >>> steps
        9
    """

    lr: float = 1e-3
    decay: float = 0.925
    weight_decay: float = 0.01
    batch_size: int = 64
    frozen_batches: bool = False
    get_inputs: GetInputs | None = None
    takes_epochs: ClassVar[bool] = True

    def __call__(
        self,
        model: nn.Module,
        dataset: Dataset[Any] | list[Dataset[Any]],
        epochs: int,
        *,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> int:
        """Train, and return the number of steps.

        Args:
            model: Trained in place; it stays in training mode.
            dataset: Gives ``(inputs, class)`` or a dict with ``labels``; or a list with one data set per epoch.
            epochs: Passes over it.
            seed: The seed of the order of samples.
            on_epoch: Called with the model and the number of finished epochs, also before the first epoch.

        Raises:
            HeadstartError: The loss is not finite.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise HeadstartError("No parameter of the model trains.", remedy="Set requires_grad of some of them.")
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)
        parts = dataset if isinstance(dataset, list) else [dataset] * epochs
        kept: list[Any] = []
        done = 0
        for epoch in range(epochs):
            if on_epoch is not None and epoch == 0:
                on_epoch(model, 0)
            if not kept:
                everything = torch.arange(samples.sample_count(parts[epoch]))
                chosen = samples.batches(everything, self.batch_size, seed, f"epoch-{epoch}")
                source = samples.fetch(parts[epoch], chosen)
                kept = list(source) if self.frozen_batches else []
            model.train()
            for batch in kept if self.frozen_batches else source:
                loss = classification_loss(model, batch, self.get_inputs)
                if not bool(torch.isfinite(loss)):
                    raise HeadstartError(
                        f"The training loss was not finite in epoch {epoch + 1} of {epochs}, step {done + 1}.",
                        remedy="Pass a smaller lr, or normalize the inputs.",
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                done += 1
            schedule.step()
            if on_epoch is not None:
                on_epoch(model, epoch + 1)
        return done


def name_of(fit: Fit) -> str:
    """Name a training by its options, or by where it is defined: the name is the same in another process."""
    if is_dataclass(fit):
        return repr(fit)
    kind = fit if hasattr(fit, "__qualname__") else type(fit)
    return f"{kind.__module__}.{kind.__qualname__}"


def classification_loss(model: nn.Module, batch: Any, get_inputs: GetInputs | None = None) -> Tensor:
    """Return the mean cross-entropy of a raw batch."""
    logits, target = predict(model, batch, get_inputs)
    return nn.functional.cross_entropy(logits, target)


def predict(model: nn.Module, batch: Any, get_inputs: GetInputs | None = None) -> tuple[Tensor, Tensor]:
    """Run the model on a raw batch.

    Returns:
        The logits, in float32 or better, and the classes.

    Raises:
        DataError: The batch has no classes, or the model's output is not logits for them.
    """
    output = run(model, batch, get_inputs)
    output = getattr(output, "logits", output[0] if isinstance(output, (tuple, list)) else output)
    if isinstance(output, Mapping):
        output = output.get("logits")
    target = _target(batch)
    if not isinstance(output, Tensor) or not _fits(output, target):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"The model's output ({found}) is not a tensor of logits (samples, classes, ...) for classes of shape"
            f" {tuple(target.shape)}.",
            remedy="Pass fit=, a function (model, dataset, epochs) that trains your model.",
        )
    wide = output if output.dtype == torch.float64 else output.float()
    return wide, target.to(output.device)


def _fits(output: Tensor, target: Tensor) -> bool:
    shape = output.shape
    return output.dim() > 1 and shape[1] > 1 and shape[:1] + shape[2:] == target.shape


def run(model: nn.Module, batch: Any, get_inputs: GetInputs | None = None) -> Any:
    """Return the model's output for the inputs in a raw batch."""
    given = inputs.as_batch(batch, model, get_inputs=get_inputs)
    return model(*given.args, **given.kwargs)


def _target(batch: Any) -> Tensor:
    found = samples.target_of(batch)
    if not isinstance(found, Tensor) or found.is_floating_point():
        raise DataError(
            "The data has no classes to train on (whole numbers after the inputs, or under 'labels').",
            remedy="Pass (inputs, classes), or fit=, a function (model, dataset, epochs) that trains your model.",
        )
    return found.long()


@contextmanager
def training(model: nn.Module, frozen: list[nn.Parameter]) -> Iterator[None]:
    """Let a model train, then remove the traces: gradients, and flags of parameters that were frozen meanwhile.

    Args:
        model: In any mode; the caller restores its mode.
        frozen: Parameters that must not train.
    """
    before = {n: (p, p.requires_grad, p.grad) for n, p in model.named_parameters()}
    steps: list[Step] = [(n, partial(p.requires_grad_, flag)) for n, (p, flag, _) in before.items()]
    steps += [(f"{n}.grad", partial(setattr, p, "grad", grad)) for n, (p, _, grad) in before.items()]
    try:
        for p, _, _ in before.values():
            p.grad = None
        for p in frozen:
            p.requires_grad_(False)
        with torch.enable_grad():
            yield
    except BaseException as error:
        put_back(steps, error)
        raise
    put_back(steps)
