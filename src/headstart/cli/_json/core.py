"""What commands on methods, models and banks print."""

from __future__ import annotations

from headstart.cli._json.schema import (
    Schema,
    anything,
    by_name,
    many,
    maybe,
    number,
    of,
    switch,
    text,
    texts,
    thing,
    whole,
)

_NOTES = texts("sentences on how it was done")


def report(meaning: str) -> Schema:
    """A report."""
    from headstart.results.report import Report, Row

    base = of(Report, meaning, without=("filters", "other_tensors", "rows"))
    return thing(
        meaning,
        base,
        others=texts("parameters and buffers outside of the weight layers that were written"),
        rows=many(of(Row), "one per weight layer, in execution order; layers that never run come last"),
    )


def written(report: Schema) -> Schema:
    """A report with the file that was written."""
    return thing(
        str(report["description"]),
        report,
        out=maybe(text("the file that was written; null with --dry-run")),
        provenance=anything("how the weights came about: methods, seed, data's fingerprint, versions"),
    )


def adapted() -> Schema:
    """A report on new channels."""
    from headstart.adapt.adapt_conv import NewChannel
    from headstart.adapt.response import Response

    return thing(
        "the report, a row per adapted layer",
        report("a report"),
        old_channels=whole("how many channels the layers took"),
        new_channels=whole("how many they take"),
        channels=many(of(NewChannel), "what every new channel is made of"),
        responses=many(of(Response), "deviations of the outputs on the data, per layer; empty without data"),
    )


def diagnosis() -> Schema:
    """A diagnosis."""
    from headstart.diagnosis.health import Diagnosis

    return of(Diagnosis, "what was measured and found")


def bank(*, written: bool) -> Schema:
    """A filter bank."""
    entry = thing(
        layer=text("layer or group that the filters come from"),
        kernel=many({"type": "integer"}, "sides of the kernel"),
        depthwise=switch("whether the layer was depthwise"),
        whole=switch("whether whole filters were clustered instead of slices"),
        depth=number("where it stands in its network, from 0 to 1"),
        sizes=many({"type": "integer"}, "filters in each cluster"),
        inertia=number("sum of squared distances to the centroids"),
        norm=number("mean norm of the filters"),
    )
    return thing(
        "the bank",
        *([thing(out=text("the file that was written"))] if written else []),
        title=text("what the bank calls itself"),
        entries=many(entry, "one per layer or group"),
        provenance=anything("sources, distance, number of clusters, versions"),
        notes=_NOTES,
    )


def banks() -> Schema:
    """The shipped banks."""
    bank = thing(name=text("its name"), title=text("what it calls itself"), entries=whole("how many entries it has"))
    return thing("the shipped banks", banks=many(bank, "each of them"), notes=_NOTES)


def elbow() -> Schema:
    """Numbers of clusters."""
    from headstart.banks.elbow import Tried

    return thing(
        "numbers of clusters, measured",
        title=text("what was clustered"),
        best=by_name({"type": "integer"}, "the number with the largest silhouette, by group"),
        tried=many(of(Tried), "each number for each group"),
        notes=_NOTES,
    )


def method() -> Schema:
    """A method."""
    from headstart.engine.method import Info

    return thing(
        "a method", of(Info), options=by_name({"type": "string"}, "each option with its default, as Python writes it")
    )


def task() -> Schema:
    """A task."""
    from headstart.bench.tasks.data.listing import Listed

    found = of(Listed)
    found["properties"]["options"]["additionalProperties"]["required"] = ["default"]  # small tasks say no more
    return thing("a task", found, optional=sorted({*found["properties"]} - {"name", "about", "options"}))


def model() -> Schema:
    """A model."""
    option = thing(default=whole("if it is not said"), least=whole("the smallest"), largest=whole("the largest"))
    return thing(
        "a model",
        optional=("about", "takes", "smallest_image", "options"),
        name=text("its name"),
        about=text("what it is"),
        parameters=maybe(whole("how many it has at this input; null if it does not take it")),
        takes=text("the inputs that it takes"),
        smallest_image=whole("side of the smallest image that it takes"),
        options=by_name(option, "its options"),
    )


def protocol() -> Schema:
    """A protocol."""
    from headstart.bench.papers.protocols.base import Protocol

    return of(Protocol, "a protocol")


def checkup() -> Schema:
    """What is installed."""
    from headstart.cli._checkup import Checkup, Package

    package = thing("", of(Package), state=text("ok, missing or broken"))
    return thing(
        "what is installed and what is missing",
        of(Checkup),
        core=many(package, "packages that headstart cannot do without"),
        extras=by_name(many(package, "its packages"), "packages by extra"),
    )
