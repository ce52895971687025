"""Losses and metrics of trials, by name or from the user's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from headstart.bench.specs import user_function
from headstart.bench.tasks.kinds import Kind
from headstart.errors import HeadstartError, ModelError, unknown

Sums = Callable[[Tensor, Tensor], Tensor]
TASK = "task"  # the loss and the metric that go with the kind of task


@dataclass(frozen=True)
class Metric:
    """A score of a split, computed from sums over its batches; larger is better.

    Args:
        label: Its name in reports.
        sums: A vector from a batch's outputs and targets, which is summed over batches.
        score: The score as a function of the sums over the split; in percent if it is a share.
        whole: The sums are not used; ``score`` takes all outputs and targets of the split, as one tuple.
        guess: The score of guessing, as a function of the number of classes.
    """

    label: str
    sums: Sums
    score: Callable[..., float]
    whole: bool = False
    guess: Callable[[int], float] = lambda classes: 0.0


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a trial.

    Args:
        loss: Mean loss of a batch, from outputs in float32 and targets.
        metric: The score of the trial.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Metric

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The batch's loss, times its samples."""
        if self.loss is F.cross_entropy:
            return F.cross_entropy(outputs, targets, reduction="sum")
        return self.loss(outputs, targets) * len(targets)


def objective(kind: Kind, loss: str = TASK, metric: str = TASK) -> Objective:
    """Find a loss and a metric.

    Args:
        kind: The kind of the task.
        loss: A name of `LOSSES`, ``"task"`` for the kind's own, or ``file.py:function`` of ``(outputs, targets)``,
            which returns a mean.
        metric: A name of `METRICS`, ``"task"``, or ``file.py:function`` of all outputs and targets of a split, on the
            CPU, which returns a number; larger is better.

    Raises:
        UnknownNameError: If there is none of that name.
        HeadstartError: If the user's file fails.

    Example:
        >>> objective("regression").metric.label
        'R²'
    """
    own = _OWN[kind]
    return Objective(_loss(own[0] if loss == TASK else loss), _metric(own[1] if metric == TASK else metric))


def _loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    if user_function.is_user_function(name):
        return partial(_users_loss, user_function.load_function(name), name)
    if name not in LOSSES:
        raise unknown("loss", name, [*LOSSES, "file.py:function"])
    return LOSSES[name]


def _metric(name: str) -> Metric:
    if user_function.is_user_function(name):
        function = user_function.load_function(name)
        return Metric(name.rpartition(":")[2], _nothing, partial(_users_score, function, name), whole=True)
    if name not in METRICS:
        raise unknown("metric", name, [*METRICS, "file.py:function"])
    return METRICS[name]


def fingerprints(*names: str) -> list[str]:
    """Return the sha256 of the files of the user's losses and metrics.

    Example:
        >>> fingerprints("cross-entropy", "dice")
        []
    """
    return [user_function.file_fingerprint(name) for name in names if user_function.is_user_function(name)]


def _users_loss(function: Callable[[Tensor, Tensor], Tensor], name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        found = function(outputs, targets)
    except Exception as error:
        raise HeadstartError(f"The loss '{name}' raised {type(error).__name__}: {error}.") from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise HeadstartError(f"The loss '{name}' returned {type(found).__name__}, not a tensor of one number.")
    return found.reshape(())


def _users_score(function: Callable[[Tensor, Tensor], float], name: str, pair: tuple[Tensor, Tensor]) -> float:
    try:
        return float(function(*pair))
    except Exception as error:
        raise HeadstartError(f"The metric '{name}' raised {type(error).__name__}: {error}.") from error


def _nothing(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.new_zeros(1)


def classes_last(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Bring outputs with a class at every position to ``(values, classes)``, and targets to ``(values,)``.

    The classes lie on the second axis, as in segmentation, or on the last one, as in language models.

    Raises:
        ModelError: If outputs and targets do not fit.

    Example:
        >>> a, b = classes_last(torch.zeros(2, 5, 4, 4), torch.zeros(2, 4, 4).long())
        >>> a.shape, b.shape
        (torch.Size([32, 5]), torch.Size([32]))
    """
    if outputs.dim() == targets.dim() + 1 and outputs.shape[0] == targets.shape[0]:
        if outputs.shape[2:] == targets.shape[1:]:
            return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), targets.reshape(-1)
        if outputs.shape[1:-1] == targets.shape[1:]:
            return outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
    raise ModelError(
        f"Outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}.",
        remedy="Return one number per class at every position: classes on the second axis, or on the last.",
    )


def _as_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.numel() != targets.numel():
        raise ModelError(
            f"Outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}.",
            remedy="Return one number for each target.",
        )
    return outputs.reshape(targets.shape)


def _position_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(*classes_last(outputs, targets))


def _dice_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the foreground (Milletari et al. 2016)."""
    flat, wanted = classes_last(outputs, targets)
    shares = flat.softmax(1)[:, 1:]
    truth = F.one_hot(wanted, flat.shape[1])[:, 1:].to(flat.dtype)
    dice = (2 * (shares * truth).sum(0) + 1) / (shares.sum(0) + truth.sum(0) + 1)
    return F.cross_entropy(flat, wanted) + 1 - dice.mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "position-cross-entropy": _position_entropy,
    "binary-cross-entropy": lambda y, t: F.binary_cross_entropy_with_logits(_as_targets(y, t), t),
    "mse": lambda y, t: F.mse_loss(_as_targets(y, t), t),
    "mae": lambda y, t: F.l1_loss(_as_targets(y, t), t),
    "dice": _dice_loss,
}


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    right = (outputs.argmax(1) == targets) & outputs.isfinite().all(1)
    return torch.stack([right.sum(), right.new_full((), len(targets), dtype=torch.long)])


def _right_positions(outputs: Tensor, targets: Tensor) -> Tensor:
    return _right(*classes_last(outputs, targets))


def _overlaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per class, twice the intersection and the sum of both sizes."""
    flat, wanted = classes_last(outputs, targets)
    truth, found = (F.one_hot(t, flat.shape[1]).double() for t in (wanted, flat.argmax(1)))
    found = found * flat.isfinite().all(1, keepdim=True)
    return torch.stack([2 * (truth * found).sum(0), truth.sum(0) + found.sum(0)])


def _dice(sums: Tensor) -> float:
    both, sizes = sums[:, 1:]  # without the background
    present = sizes > 0
    return 100 * float((both[present] / sizes[present]).mean()) if bool(present.any()) else 0.0


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """True positives, false positives, false negatives, over all labels."""
    found, truth = _as_targets(outputs, targets) > 0, targets > 0.5
    return torch.stack([(found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()])


def _f1(sums: Tensor) -> float:
    hits, false, missed = sums.tolist()
    return 100 * 2 * hits / max(2 * hits + false + missed, 1)


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per value: count, sum, sum of squares, squared errors. Outputs that are not finite get the largest error."""
    found, wanted = _as_targets(outputs, targets).double(), targets.double()
    errors = torch.nan_to_num(found - wanted, nan=1e12, posinf=1e12, neginf=-1e12).square()
    return torch.stack([torch.ones_like(wanted), wanted, wanted.square(), errors]).sum(1)


def _determination(sums: Tensor) -> float:
    count, total, squares, errors = sums
    spread = (squares - total**2 / count).clamp_min(1e-12)
    return 100 * float((1 - errors / spread).clamp_min(-1).mean())  # worse than twice the spread is all the same


def _share(sums: Tensor) -> float:
    right, count = sums.tolist()
    return 100 * right / count


def _by_chance(classes: int) -> float:
    return 100.0 / classes


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", _right, _share, guess=_by_chance),
    "position-accuracy": Metric("accuracy", _right_positions, _share, guess=_by_chance),
    "dice": Metric("Dice", _overlaps, _dice),
    "f1": Metric("F1", _hits, _f1),
    "r2": Metric("R²", _squares, _determination),
}
_OWN: dict[Kind, tuple[str, str]] = {
    "classification": ("cross-entropy", "accuracy"),
    "multilabel": ("binary-cross-entropy", "f1"),
    "regression": ("mse", "r2"),
    "segmentation": ("position-cross-entropy", "dice"),
    "next-token": ("position-cross-entropy", "position-accuracy"),
}
