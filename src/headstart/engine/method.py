"""What a method is: a frozen dataclass that fills a layer before it computes or rescales it after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from headstart.errors import HeadstartError
from headstart.model.weights import Layer

if TYPE_CHECKING:
    from headstart.engine.model_view import ModelView
    from headstart.engine.visit import Visit
    from headstart.model.report_builder import ReportBuilder
    from headstart.model.trace import ModelTrace

FitWith = Callable[[Mapping[str, Any], bool], Any]
OnComplex = Literal["written", "left", "refused"]
# "convolutions": those of more than one tap, as far as the method knows filters for their kernels.
Scope = Literal["first convolution", "convolutions", "all layers"]


@dataclass(frozen=True)
class Info:
    """What the registry knows of a method.

    Attributes:
        name: Registered name.
        summary: One line.
        reference: Authors, year, title.
        scope: Which layers it writes.
        needs_data: Whether it works from a batch.
        cost: Forward passes and memory, in words.
        presets: Named configurations (class methods), the published form among them.
        deviations: What differs from the source, each a sentence.
        depends_on_other_layers: Whether what a layer gets also depends on the layers behind it, or on all others.
        revision: Raised whenever the method's bits change for the same options and seed.
    """

    name: str
    summary: str
    reference: str
    scope: Scope
    needs_data: bool
    cost: str
    presets: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    depends_on_other_layers: bool = False
    revision: int = 1


class Method:
    """Base of every initialization.

    A subclass is a frozen dataclass whose fields are its hyperparameters. It overrides :meth:`before`,
    :meth:`after` or both, and :meth:`select` if it does not write every layer. Methods given as a list
    run interleaved in one walk: at each layer the fills, then the scalings, in the order of the list. What needs
    the whole model at once overrides :meth:`start`, which comes before the walk, or :meth:`finish`, which comes after.
    """

    info: ClassVar[Info]
    takes_data_set: ClassVar[bool] = False
    """Whether the method works from the whole data set with its targets, and not from one batch of inputs."""
    writes_parts: ClassVar[bool] = False
    """Whether it also writes layers that are parts of modules: attention's projections, gates, embeddings."""

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """Choose which of the selected layers to visit; ``report.skip`` says why others are left.

        Args:
            layers: Layers that may be written, in execution order.
            trace: What is known of the model: order, calls, which layers a normalization follows.
            report: Gets the reasons.

        Returns:
            The layers to visit.
        """
        return layers

    def on_complex(self) -> OnComplex:
        """What the method does with complex weights: ``"written"``, ``"left"`` with a note, or ``"refused"``.

        A method that writes them gets and gives complex tensors; ``visit.normal`` draws them with half of the variance
        in each part, ``visit.moments`` has the variance of both together.
        """
        return "refused"

    def draws(self, layer: Layer) -> Sequence[tuple[str, tuple[int, ...]]]:
        """What :meth:`before` will ask of ``visit.normal``, by purpose and shape: drawn while a device computes."""
        return ()

    def studied(self, trace: ModelTrace) -> Sequence[Layer]:
        """Layers of which ``trace.behaviour`` is wanted: what their outputs go into. That costs a small pass."""
        return ()

    def start(self, view: ModelView) -> None:
        """Work on the whole model, before any layer is visited."""

    def before(self, visit: Visit) -> None:
        """Write the layer from its real input, before it computes."""

    def after(self, visit: Visit) -> None:
        """Rescale the layer after it computed, with ``visit.affine``."""

    def finish(self, view: ModelView) -> None:
        """Work on the whole model, after all layers were visited."""

    def spelled(self) -> str:
        """The options, as the report and trials show them.

        Options that came later are declared with ``repr=False`` and only shown where they are not at their default, so
        that trials which are stored keep their names.
        """
        late = [f for f in self.option_fields() if not f.repr and getattr(self, f.name) != f.default]
        added = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in late)
        text = repr(self)
        return f"{text[:-1]}{'' if text.endswith('()') else ', '}{added})" if late else text

    def identity(self) -> str:
        """The text by which the benchmark names trials: the options, and the content of the files that they name."""
        return self.spelled()

    def key(self) -> str:
        """The identity, with the revision from the second on: so trials of two versions of a method are not mixed."""
        return self.identity() if self.info.revision == 1 else f"{self.identity()}, revision {self.info.revision}"

    def training_steps(self, samples: int, batch_size: int) -> int | None:
        """Count the training steps that the start takes; None if it does not train, or not as the caller does.

        Args:
            samples: In the data set.
            batch_size: The batch size of the training that follows.
        """
        return None

    def trained_by(self, fit_with: FitWith) -> Method:
        """The same method with the caller's training, for methods that train and were given no training of their own.

        Args:
            fit_with: ``(settings, frozen) -> fit``: training like the caller's except for some settings (``lr``,
                ``weight_decay``, ``batch_size``), which repeats its first epoch's batches if ``frozen``.
        """
        return self

    def on_all_data(self) -> Method | None:
        """The control: as many steps, on all of the data. None for methods that do not draw samples."""
        return None

    @property
    def leaves_zeros(self) -> bool:
        """Whether layers whose weights are all zero stay so: for methods with an option ``zeros``."""
        return getattr(self, "zeros", "write") == "leave"

    @property
    def recurrences(self) -> str:
        """What a method with an option ``recurrent`` does with recurrent layers; others write at the first use."""
        return str(getattr(self, "recurrent", "first"))

    def check(self, ok: bool, problem: str, remedy: str) -> None:
        """Raise a :class:`HeadstartError` about this method's options unless ``ok``."""
        if not ok:
            raise HeadstartError(f"{self.info.name}: {problem}.", remedy=remedy)

    def check_choice(self, field: str, *choices: str) -> None:
        """Raise unless the option has one of the named values."""
        value = getattr(self, field)
        known = ", ".join(repr(c) for c in choices)
        self.check(value in choices, f"{field}={value!r} is not known", f"Choose one of {known}.")

    @classmethod
    def option_fields(cls) -> tuple[Field[Any], ...]:
        """The fields of the dataclass; none if a user's method is a plain class."""
        return fields(cls) if is_dataclass(cls) else ()

    def options(self) -> dict[str, Any]:
        """Fields and their values."""
        return {f.name: getattr(self, f.name) for f in self.option_fields()}
