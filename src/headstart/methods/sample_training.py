"""Starts by training on samples: Smart-Init, repeats, warm start, and shrink-and-perturb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset, Subset

from headstart import progress, rng
from headstart.engine.method import FitWith, Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.errors import HeadstartError
from headstart.fitting import classify, samples
from headstart.fitting.classify import Classify, Fit
from headstart.fitting.stages import Checkpoint, Stage, require_finite
from headstart.methods.shared.training_state import BeforeTraining
from headstart.model import weights
from headstart.model.inputs import fingerprint

NORMS = ("keep", "reset", "reestimate")
_ENOUGH = 64  # batches that give a batch norm's statistics again


@dataclass(frozen=True)
class SampleTraining(Method):
    """Train for a few epochs on each of a few samples, and keep only the weights.

    Every stage has its own optimizer, schedule and order of samples, and nothing of them remains. The user's training
    starts with a new optimizer.

    Args:
        fractions: Share of the data that each stage trains on.
        epochs: Epochs of every stage, over its sample.
        repeats: How often all stages are repeated, each time with newly drawn samples.
        draw: ``"independent"``: each sample is drawn from all data; ``"nested"``: larger samples hold the smaller ones;
            ``"disjoint"``: samples do not overlap.
        source: ``"sample"``; or ``"all"``, a control: the same number of steps and restarts of the learning rate, on
            batches from all data instead of a sample.
        batch_norm: Running statistics: ``"keep"`` those of this training, ``"reset"`` them to the values before, or
            ``"reestimate"`` them on the last sample.
        shrink: Factor of the weights after the last stage.
        noise: Deviation of the Gaussian noise that is then added to the weights.
        lr: Learning rate at the start of each stage. None: that of the trial in ``headstart compare``, 1e-3
            elsewhere.
        decay: Its factor after every epoch; ``headstart compare`` uses the trial's schedule instead.
        weight_decay: Weight decay. None: that of the trial in ``headstart compare``, 0.01 elsewhere.
        batch_size: Samples per step. None: as in the trial in ``headstart compare``, 64 elsewhere.
        frozen_batches: Draw batches and augmentations once per stage and repeat them in every epoch.
        fit: ``(model, dataset, epochs) -> None``; trains one stage. Default: cross-entropy with AdamW
            (`headstart.fitting.Classify`), or in ``headstart compare`` the trial's own training.
        checkpoint: A ``.safetensors`` file that is written after every stage. After an interruption the same
            call continues from it, with the same result as without interruption. It is removed at the end.

    Raises:
        HeadstartError: There is no data set with targets, or the loss or weights of a stage are not finite. The
            model is then unchanged.
    """

    fractions: tuple[float, ...] = (0.0125, 0.125)
    epochs: int = 10
    repeats: int = 1
    draw: str = "independent"
    source: str = "sample"
    batch_norm: str = "keep"
    shrink: float = 1.0
    noise: float = 0.0
    lr: float | None = None
    decay: float = 0.925
    weight_decay: float | None = None
    batch_size: int | None = None
    frozen_batches: bool = False
    fit: Fit | None = field(default=None, repr=False)
    checkpoint: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        given = self.fractions if isinstance(self.fractions, (tuple, list)) else (self.fractions,)
        object.__setattr__(self, "fractions", tuple(given))
        ok = bool(self.fractions) and all(isinstance(f, (int, float)) and 0 < f <= 1 for f in self.fractions)
        self.check(ok, f"fractions={self.fractions!r} are not shares", "Pass numbers above 0 and up to 1")
        for name in ("repeats", "batch_size"):
            value = 1 if getattr(self, name) is None else getattr(self, name)
            self.check(isinstance(value, int) and value >= 1, f"{name}={value!r} is not a count", "Pass 1 or more")
        self.check(isinstance(self.epochs, int) and self.epochs >= 0, f"epochs={self.epochs!r}", "Pass 0 or more")
        self.check_choice("draw", *samples.DRAWS)
        self.check_choice("source", "sample", "all")
        self.check_choice("batch_norm", *NORMS)
        self.check(0 <= self.shrink <= 1, f"shrink={self.shrink!r} is not a share", "Pass a number from 0 to 1")
        for name in ("noise", "weight_decay"):
            self.check((getattr(self, name) or 0) >= 0, f"{name}={getattr(self, name)!r}", "Pass 0 or more")
        self.check(
            self.lr is None or self.lr > 0, f"lr={self.lr!r} is not positive", "Pass a learning rate such as 1e-3"
        )
        self.check(0 < self.decay <= 1, f"decay={self.decay!r} is not a factor", "Pass a number up to 1")
        self.check(self.fit is None or callable(self.fit), "fit cannot be called", "Pass (model, dataset, epochs)")
        self.check(
            self.source == "sample" or not self.frozen_batches,
            "source='all' draws new samples in every epoch, but frozen_batches repeats them",
            "Leave out one of them",
        )
        self.check(
            self.source == "sample" or self.fit is None or getattr(self.fit, "takes_epochs", False),
            "source='all' needs the package's own training",
            "Leave out fit=",
        )

    takes_data_set: ClassVar[bool] = True

    def training_steps(self, samples: int, batch_size: int) -> int | None:
        """Count the steps of all stages; None with the user's own training or another batch size."""
        if self.fit or self.batch_size not in (None, batch_size):
            return None
        return sum(stage.steps(batch_size) for stage in self.stages(samples, seed=0))

    def trained_by(self, fit_with: FitWith) -> Method:
        """Train as the caller does, except for the learning rate, weight decay and batch size that this method sets."""
        if self.fit is not None:
            return self
        own = {name: getattr(self, name) for name in ("lr", "weight_decay", "batch_size")}
        said = {name: value for name, value in own.items() if value is not None}
        return replace(self, fit=fit_with(said, self.frozen_batches))

    def on_all_data(self) -> Method | None:
        """The same number of steps and restarts, on batches from all data."""
        return replace(self, source="all", frozen_batches=False) if self.source == "sample" else None

    def finish(self, view: ModelView) -> None:
        """Train, stage by stage."""
        assert view.batch is not None
        dataset = samples.as_dataset(view.data, view.batch.raw, view.model)
        plan = self.stages(samples.sample_count(dataset), view.seed)
        if isinstance(dataset, samples.Rows) and not samples.holds_rows(view.data):
            view.report.add_finding(
                f"{self.info.name}: no data set was passed, so the {len(dataset)} samples taken count as all data."
            )
        for stage in plan:
            missing = samples.missing_classes(dataset, stage.indices)
            if missing:
                view.report.add_finding(f"{self.info.name}: the sample of {stage} misses {missing} classes.")
        if not plan:
            view.report.add_finding(f"{self.info.name}: no epochs, so nothing was trained.")
            return
        before = BeforeTraining(view)
        with classify.training(view.model, before.frozen):
            self._train(view, dataset, plan)
        view.model.eval()
        self._statistics(view, dataset, plan[-1], before)
        self._perturb(view)
        before.tell(view)
        own = f", {sum(stage.steps(self._own().batch_size) for stage in plan)} steps" if self.fit is None else ""
        view.report.add_finding(f"{self.info.name}: trained {', then '.join(map(str, plan))}{own}.")

    def stages(self, size: int, seed: int) -> list[Stage]:
        """List the stages for a data set of some size, in order; none without epochs."""
        found = []
        for repeat in range(self.repeats if self.epochs else 0):
            drawn = samples.draw(size, self.fractions, self.draw, rng.derive(seed, f"repeat-{repeat}"))
            found += [(fraction, indices) for fraction, indices in zip(self.fractions, drawn, strict=True)]
        return [Stage(i + 1, len(found), share, indices, self.epochs) for i, (share, indices) in enumerate(found)]

    def _own(self) -> Classify:
        """The default training."""
        given = {name: getattr(self, name) for name in ("lr", "weight_decay", "batch_size")}
        said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return Classify(decay=self.decay, frozen_batches=self.frozen_batches, **said)

    def _train(self, view: ModelView, dataset: Dataset[Any], plan: Sequence[Stage]) -> None:
        fit = self.fit or self._own()
        if isinstance(fit, Classify) and fit.get_inputs is None:
            fit = replace(fit, get_inputs=view.get_inputs)
        assert view.batch is not None
        work = [
            repr(self),
            classify.name_of(fit),
            str(view.seed),
            str(samples.sample_count(dataset)),
            fingerprint(view.batch),
        ]
        kept = Checkpoint(self.checkpoint, view.model, work)
        done = kept.resume()
        if done:
            view.report.add_finding(f"{self.info.name}: resumed after stage {done} of {len(plan)}.")
        with progress.progress_reporter() as tell:
            self._stages(view, dataset, plan[done:], fit, kept, tell)
        view.transaction.at_success(kept.remove)

    def _stages(
        self,
        view: ModelView,
        dataset: Dataset[Any],
        plan: Sequence[Stage],
        fit: Fit,
        kept: Checkpoint,
        tell: progress.Listener,
    ) -> None:
        for stage in plan:
            what = f"{self.info.name}, stage {stage.number} of {stage.of}, epochs"
            tell(what, 0, stage.epochs)
            seed = rng.derive(view.seed, "stage", str(stage.number))
            part: Any = Subset(dataset, stage.indices.tolist())
            if self.source == "all":
                part = [Subset(dataset, chunk.tolist()) for chunk in _chunks(dataset, stage, seed)]
            view.model.train()
            try:
                with rng.untouched(seed):  # so that a stage draws the same whatever ran before it
                    if isinstance(fit, Classify):
                        told = _epochs_to(tell, what, stage.epochs)
                        fit(view.model, part, stage.epochs, seed=seed, on_epoch=told)
                    else:
                        fit(view.model, part, stage.epochs)
            except Exception as error:
                reason = str(error) if isinstance(error, HeadstartError) else f"{type(error).__name__}: {error}."
                raise HeadstartError(f"{self.info.name}: {stage} failed, nothing was changed. {reason}") from error
            require_finite(view.model, f"{self.info.name}: after {stage}")
            kept.save(stage.number)

    def _statistics(self, view: ModelView, dataset: Dataset[Any], last: Stage, before: BeforeTraining) -> None:
        """Set batch norms' running statistics as ``batch_norm`` says."""
        norms = [m for m in view.model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if self.batch_norm == "reset":
            before.restore([b for m in norms for b in m.buffers()])
        elif self.batch_norm == "reestimate" and norms:
            chosen = samples.batches(last.indices, self._own().batch_size, view.seed, "reestimate")[:_ENOUGH]
            kept = [(m, m.momentum) for m in norms]
            for m in norms:
                m.reset_running_stats()
                m.momentum = None  # the plain average over the batches
                m.training = True
            try:
                for batch in samples.fetch(dataset, chosen):
                    classify.run(view.model, batch, view.get_inputs)
            finally:
                for m, momentum in kept:
                    m.momentum, m.training = momentum, False

    def _perturb(self, view: ModelView) -> None:
        """Shrink the weights of the layers and add noise."""
        if self.shrink == 1 and self.noise == 0:
            return
        for layer in view.layers:
            draw = rng.generator(view.seed, layer.name, "perturb")
            value, bias = weights.read(layer), weights.read_bias(layer)
            noise = self.noise * torch.randn(value.shape, generator=draw, dtype=value.dtype).to(value.device)
            weights.write(layer, self.shrink * value + noise)
            if bias is not None and layer.module.bias.requires_grad:
                noise = self.noise * torch.randn(bias.shape, generator=draw, dtype=bias.dtype).to(bias.device)
                weights.write_bias(layer, self.shrink * bias + noise)


def _epochs_to(tell: progress.Listener, what: str, total: int) -> Callable[[Any, int], None]:
    """A callback of `Classify` that reports the finished epochs."""
    return lambda model, epoch: tell(what, epoch, total)


def _chunks(dataset: Dataset[Any], stage: Stage, seed: int) -> Iterator[Tensor]:
    """As many samples as the stage has, new ones for every epoch, from successive passes over all data."""
    size, needed = samples.sample_count(dataset), len(stage.indices)
    waiting, passes = torch.empty(0, dtype=torch.long), 0
    for _ in range(stage.epochs):
        while len(waiting) < needed:
            order = torch.randperm(size, generator=rng.generator(seed, f"pass-{passes}"))
            waiting, passes = torch.cat([waiting, order]), passes + 1
        yield waiting[:needed]
        waiting = waiting[needed:]


_REFERENCE = "Denisov, Feldman, Dolev and Segal, Smart-Init of neural networks"


@register(
    "smart-init",
    summary="a few epochs on a very small sample, then on a larger one; optimizer and schedule start anew",
    reference=_REFERENCE,
    scope="all layers",
    needs_data=True,
    cost="10 epochs on 1.25 % and on 12.5 % of the data: 1.4 epochs of training",
    presets=("paper", "repeated", "restarts"),
    deviations=(
        "Batches and augmentations are drawn anew in every epoch; published ones are the same in all ten epochs.",
        "The sizes are 1.25 % and 12.5 %, as in all published experiments; the paper's description says 1.25 % twice.",
        "A sample of n images gives ceil(n / batch size) batches of equal size; the paper uses whole batches.",
    ),
    depends_on_other_layers=True,
)
@dataclass(frozen=True)
class SmartInit(SampleTraining):
    """Train on 1.25 % of the data, then on 12.5 %, ten epochs each.

    The idea: on a small sample a network quickly finds the coarse structure of the problem, from where training on more
    data reaches a better minimum. A gain may also come from more steps, or from restarts of the learning rate. The
    preset ``restarts`` has both but no samples: compare with it. See `SampleTraining` for the options.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        >>> x = torch.randn(400, 8)
        >>> y = (x[:, 0] > 0).long()
        >>> report = hs.initialize(net, (x, y), hs.SmartInit(lr=0.01, batch_size=16))
        >>> report.changed
        ['0', '2']
        >>> bool((net(x).argmax(1) == y).float().mean() > 0.7)
        True
    """

    @classmethod
    def paper(cls, **options: Any) -> SmartInit:
        """The published form: batches and augmentations drawn once per stage."""
        return cls(**{"frozen_batches": True, **options})

    @classmethod
    def repeated(cls, **options: Any) -> SmartInit:
        """Ten samples of 12.5 %, one after the other, ten epochs each."""
        return cls(**{"fractions": (0.125,), "repeats": 10, **options})

    @classmethod
    def restarts(cls, **options: Any) -> SmartInit:
        """The control: the same steps and restarts of the learning rate, on all of the data."""
        return cls(**{"source": "all", **options})


@register(
    "warm-start",
    summary="training on half of the data first; optimizer and schedule start anew",
    reference="Ash and Adams 2020, On warm-starting neural network training; as a start in " + _REFERENCE,
    scope="all layers",
    needs_data=True,
    cost="50 epochs on half of the data: 25 epochs of training",
    deviations=("The number of epochs is fixed (50, as in the Smart-Init study), not until convergence.",),
    depends_on_other_layers=True,
)
@dataclass(frozen=True)
class WarmStart(SampleTraining):
    """Train on 50 % of the data for 50 epochs. See `SampleTraining` for the options.

    It is known to cost final accuracy on some problems: the network settles on its half. `ShrinkPerturb` is the remedy.
    """

    fractions: tuple[float, ...] = (0.5,)
    epochs: int = 50


@register(
    "shrink-perturb",
    summary="a warm start whose weights are shrunk and get noise, so that training can leave its first solution",
    reference="Ash and Adams 2020, On warm-starting neural network training",
    scope="all layers",
    needs_data=True,
    cost="that of a warm start: 25 epochs of training",
    deviations=(
        "Weights and biases of layers are shrunk and perturbed; norms keep their learned values.",
        "The factor 0.6 and the noise 0.01 are one of several choices in the source.",
    ),
    depends_on_other_layers=True,
)
@dataclass(frozen=True)
class ShrinkPerturb(SampleTraining):
    """Train on 50 % of the data for 50 epochs, then ``w <- shrink * w + noise * z``. See `SampleTraining`."""

    fractions: tuple[float, ...] = (0.5,)
    epochs: int = 50
    shrink: float = 0.6
    noise: float = 0.01
