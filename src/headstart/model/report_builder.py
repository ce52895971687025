"""The report of a call while it is being written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from headstart.model.later import Later
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer
from headstart.results.report import Action, Report, Row


@dataclass
class ReportBuilder:
    """Collects what methods report while they work; :meth:`build` makes the report from it.

    Attributes:
        rows: One per weight layer, by name.
        findings: Sentences about the call.
        filters: The first convolution's filters (before, after), if it was written.
        statistics: Names of batch norms whose running statistics were adapted to a rescale.
        other_tensors: Names of written parameters and buffers that are not in weight layers.
        notes: Sentences on what was not examined.
        later: Work that waits for numbers on the device, such as rows and checks.
    """

    rows: dict[str, Row]
    findings: list[str] = field(default_factory=list)
    filters: tuple[Tensor, Tensor] | None = None
    statistics: list[str] = field(default_factory=list)
    other_tensors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    later: Later = field(default_factory=Later)

    @classmethod
    def of(cls, trace: ModelTrace) -> ReportBuilder:
        """Begin with a row for each layer of a model."""
        rows = {la.name: Row(la.name, type(la.module).__name__, la.shape) for la in _everything(trace)}
        for layer in trace.unreached:
            rows[layer.name].action = "not reached"
            rows[layer.name].notes.append("the forward pass does not call this module")
        for name, n in trace.calls.items():
            if name in trace.recurrent:
                rows[name].notes.append(f"runs {n} times, on its own earlier outputs")
            elif n > 1:
                rows[name].notes.append(f"runs {n} times; treated on its first use")
        return cls(rows)

    def skip(self, layer: Layer, reason: str) -> None:
        """Report why a layer is left as it is."""
        row = self.rows[layer.name]
        if row.action == "left":
            row.action = "skipped"
        row.notes.append(reason)

    def add_finding(self, sentence: str) -> None:
        """Add a finding, once."""
        if sentence not in self.findings:
            self.findings.append(sentence)

    def add_note(self, sentence: str) -> None:
        """Add a note, unless it is empty."""
        if sentence:
            self.notes.append(sentence)

    def wrote(self, layer: Layer, method: str, action: Action = "written") -> Row:
        """Note that a method wrote or scaled a layer, and return its row."""
        row = self.rows[layer.name]
        row.action = action
        if method not in row.methods:
            row.methods.append(method)
        return row

    def checkpoint(self) -> Callable[[], None]:
        """Remember the rows so far; the function that is returned restores them, but not the findings."""
        rows, filters, statistics = copy.deepcopy(self.rows), self.filters, list(self.statistics)

        def restore() -> None:
            self.rows.update(copy.deepcopy(rows))
            self.filters, self.statistics = filters, statistics

        return restore

    def build(self, trace: ModelTrace, methods: Sequence[str], options: Sequence[str], seed: int) -> Report:
        """Make the report.

        Args:
            trace: The trace of the model.
            methods: Names.
            options: Their configurations, as each method prints itself.
            seed: The seed of the call.

        Raises:
            HeadstartError: A check that was left for later failed.
        """
        self.later.settle()
        rows = [self.rows[layer.name] for layer in _everything(trace)]
        report = Report(f"headstart: {' + '.join(methods)}", list(options), rows, seed=seed, filters=self.filters)
        report.findings, report.notes = list(self.findings), list(self.notes)
        report.statistics, report.other_tensors = list(self.statistics), list(self.other_tensors)
        if self.statistics:
            report.findings.append(f"Running statistics were adapted to the rescale in: {', '.join(self.statistics)}.")
        if trace.unreached:
            report.findings.append(
                f"{len(trace.unreached)} weight layers are never called by the forward pass and were left alone:"
                f" {', '.join(la.name for la in trace.unreached[:5])}{' …' if len(trace.unreached) > 5 else ''}."
            )
        if not report.changed and not report.other_tensors:
            report.findings.append("No layer was written.")
        return report


def _everything(trace: ModelTrace) -> list[Layer]:
    reached: list[Layer] = [*trace.layers, *trace.parts]
    last = len(reached)
    return [*sorted(reached, key=lambda layer: trace.order.get(layer.name, last)), *trace.unreached]
