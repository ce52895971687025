"""The call ``calibrate``: brings a trained network's channels and layers to even scales; can fold batch norms first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from headstart.api import initialize
from headstart.measure.gradients import LossFunction
from headstart.methods.data_dependent.calibrate import Calibrate
from headstart.model.inputs import GetInputs
from headstart.model.selection import Selection
from headstart.results.report import Report
from headstart.symmetries.folding import fold_batch_norms


def calibrate(
    model: nn.Module,
    data: Any,
    *,
    balance: bool = True,
    fold: bool = False,
    loss_fn: LossFunction | None = None,
    include: Selection = None,
    exclude: Selection = None,
    samples: int | None = None,
    get_inputs: GetInputs | None = None,
) -> Report:
    """Calibrate a trained network in place without changing its function: fold, then ``initialize`` with `Calibrate`.

    If you will replace the head, do so first, and exclude the layers that you will initialize anew.

    Args:
        model: A trained model; its parameters keep identity, dtype, device and memory format.
        data: As for :func:`headstart.initialize`.
        balance: Also make all layers learn at one rate.
        fold: First fold trained batch norms into the layers before them, see :func:`headstart.fold_batch_norms`.
        loss_fn: The loss whose gradients ``balance`` measures; random gradients by default.
        include: Only these layers.
        exclude: Not these layers.
        samples: How many samples to use.
        get_inputs: Takes the model's inputs out of data of any other form.

    Returns:
        A report; ``statistics`` names the batch norms whose running statistics were adapted.

    Raises:
        HeadstartError: It failed. The model is then unchanged.
    """
    method = Calibrate(balance=balance, loss_fn=loss_fn)
    options: dict[str, Any] = {"samples": samples, "get_inputs": get_inputs}
    if fold and isinstance(data, Iterator):
        data = next(data, ())  # it gives its first batch once
    folded = fold_batch_norms(model, data, **options) if fold else None
    try:
        report = initialize(model, data, method, include=include, exclude=exclude, **options)
    except BaseException:
        if folded is not None:
            folded.undo()
        raise
    if folded is not None:
        report.findings.insert(0, f"calibrate: {folded}")
    return report
