"""Curves of training on a sample: on the sample, on all training data, and on separate data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset, Subset

from headstart import rng
from headstart.errors import HeadstartError, needs_extra
from headstart.fitting import classify, samples
from headstart.fitting.classify import Classify
from headstart.model import guard
from headstart.model.inputs import GetInputs
from headstart.model.tensor_state import restored

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 2048  # samples of a set that are looked at


@dataclass(frozen=True)
class CurvePoint:
    """One measurement.

    Attributes:
        epoch: Finished epochs; 0 before any training.
        data: ``"sample"``, ``"training"`` (all of it) or ``"validation"``.
        norm: What batch norms used: ``"evaluation"``: their running statistics; ``"training"``: those of the batch.
        loss: Mean cross-entropy.
        accuracy: In percent.
    """

    epoch: int
    data: str
    norm: str
    loss: float
    accuracy: float


@dataclass
class SampleCurves:
    """The progress of training on a sample, epoch by epoch.

    Attributes:
        size: Samples that were trained on.
        fraction: The fraction of the data.
        points: The measurements, in the order of epochs.
    """

    size: int
    fraction: float
    points: list[CurvePoint] = field(default_factory=list)

    def of(self, data: str, norm: str = "evaluation") -> list[CurvePoint]:
        """Return one curve."""
        return [p for p in self.points if (p.data, p.norm) == (data, norm)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"size": self.size, "fraction": self.fraction, "points": [asdict(p) for p in self.points]}

    def plot(self) -> Figure:
        """Draw loss and accuracy over the epochs: solid with running statistics, dashed with those of the batch.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        with needs_extra(package="matplotlib", extra="plot", what="SampleCurves.plot()"):
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator

            from headstart.results.filter_plot import AFTER, BEFORE
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        colours = {"sample": "#b3541e", "training": AFTER, "validation": "#2e7d4f"}
        names = {"sample": f"the sample ({self.size})", "training": "all training data", "validation": "validation"}
        for place, (measure, label) in enumerate((("loss", "cross-entropy"), ("accuracy", "accuracy (%)")), start=1):
            axes = figure.add_subplot(1, 2, place)
            values = []
            for data, colour in colours.items():
                for norm, style in (("evaluation", "-"), ("training", "--")):
                    points = self.of(data, norm)
                    if points:
                        heights = [getattr(p, measure) for p in points]
                        values += heights
                        text = names[data] if norm == "evaluation" else None
                        axes.plot([p.epoch for p in points], heights, style, color=colour, label=text, linewidth=1.6)
            if measure == "loss" and min(values) > 0 and max(values) > 10 * min(values):
                axes.set_yscale("log")
            axes.set_xlabel("epochs over the sample")
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
        axes.plot([], [], "--", color=BEFORE, label="batch norm by the batch")
        axes.legend(frameon=False, fontsize=8)
        return figure


def sample_curves(
    model: nn.Module,
    data: Any,
    validation: Any = None,
    *,
    fraction: float = 0.125,
    epochs: int = 50,
    fit: Classify | None = None,
    seed: int = 0,
    get_inputs: GetInputs | None = None,
) -> SampleCurves:
    """Train a copy of a model on a sample and measure it after every epoch; the model itself does not change.

    The idea: a start by training may over-fit its sample. A loss that rises on the sample itself has another cause:
    batch norms' running statistics no longer fit the weights. So everything is measured twice, with running statistics
    and with those of the batch.

    Args:
        model: A classifier.
        data: As for `SampleTraining`.
        validation: Separate data, in the same forms; None for none.
        fraction: Share of the data to train on.
        epochs: Passes over the sample.
        fit: How to train.
        seed: The seed of the sample and of its order.
        get_inputs: For batches of any other form.

    Returns:
        The curves. They are measured on at most 2,048 random samples of each set.

    Raises:
        HeadstartError: No classes to train on, or a loss that is not finite.

    Cost: the training, and two passes over up to 2,048 samples of each set per epoch; memory for a copy of the model.

    Example:
        >>> x = torch.randn(200, 8)
        >>> y = (x[:, 0] > 0).long()
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> curves = sample_curves(net, (x[:150], y[:150]), (x[150:], y[150:]), epochs=3)
        >>> [point.epoch for point in curves.of("validation")]
        [0, 1, 2, 3]
    """
    model = guard.unwrap(model)
    guard.check(model)
    if not 0 < fraction <= 1:
        raise HeadstartError(f"fraction={fraction!r} is not a share.", remedy="Pass a number above 0 and up to 1.")
    whole = samples.as_dataset(data)
    (indices,) = samples.draw(samples.sample_count(whole), (fraction,), "independent", seed)
    sample: Dataset[Any] = Subset(whole, indices.tolist())
    sets = {"sample": sample, "training": whole}
    if validation is not None:
        sets["validation"] = samples.as_dataset(validation)
    fit = fit or Classify()
    fit = fit if get_inputs is None else replace(fit, get_inputs=get_inputs)
    found = SampleCurves(len(indices), fraction)
    with rng.untouched(seed), torch.inference_mode(False):
        twin = copy.deepcopy(model)

        def look(trained: nn.Module, epoch: int) -> None:
            for name, dataset in sets.items():
                for norm in ("evaluation", "training"):
                    with rng.untouched(seed):  # what a data set draws must not move the training
                        loss, accuracy = _look(trained, dataset, norm, fit, seed)
                    found.points.append(CurvePoint(epoch, name, norm, loss, accuracy))

        with classify.training(twin, []):
            fit(twin, sample, epochs, seed=seed, on_epoch=look)
    return found


@torch.no_grad()
def _look(model: nn.Module, dataset: Dataset[Any], norm: str, fit: Classify, seed: int) -> tuple[float, float]:
    """Mean loss and accuracy in percent."""
    order = torch.randperm(samples.sample_count(dataset), generator=rng.generator(seed, "look"))[:_MOST]
    chosen = order.tensor_split(samples.steps(len(order), fit.batch_size))
    losses: list[Tensor] = []
    right: list[Tensor] = []
    with _acting(model, norm):
        for batch in samples.fetch(dataset, chosen):
            logits, target = classify.predict(model, batch, fit.get_inputs)
            losses.append(nn.functional.cross_entropy(logits, target, reduction="none"))
            right.append((logits.argmax(1) == target).float())
    return float(torch.cat(losses).mean()), 100 * float(torch.cat(right).mean())


@contextmanager
def _acting(model: nn.Module, norm: str) -> Iterator[None]:
    """Evaluation mode; batch norms use the batch if they should act as in training. Buffers do not change."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    with restored((f"{name}.{key}", b) for name, m in norms.items() for key, b in m.named_buffers()):
        model.eval()
        for m in norms.values():
            m.training = norm == "training"
        try:
            yield
        finally:
            model.train()
