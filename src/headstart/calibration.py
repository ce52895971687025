"""The call ``calibrate``: a trained network's channels and layers at even scales, batch norms folded first if asked."""

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
    """Calibrate a trained network in place, keeping its function: ``initialize`` with `Calibrate`, after folding.

    Replace the head first if it will be replaced, and exclude what will be initialized anew.

    Args:
        model: Trained; parameters keep identity, dtype, device and memory format.
        data: As for :func:`headstart.initialize`.
        balance: Also bring the layers to one rate of learning.
        fold: First fold trained batch norms into the layers before them, see :func:`headstart.fold_batch_norms`.
        loss_fn: Whose gradients count for that; random ones by default.
        include: Only these layers.
        exclude: Not these layers.
        samples: How many samples to use.
        get_inputs: For data of any other form.

    Returns:
        A report; ``statistics`` names the batch norms that followed.

    Raises:
        HeadstartError: Nothing was changed then.
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
