"""The papers' comparisons as named configurations: as published, and with their defects corrected."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from headstart.bench.papers.protocols import clusters, data_dependent, prewarm, smart_init
from headstart.bench.papers.protocols.base import Note, Protocol
from headstart.errors import HeadstartError, unknown

__all__ = ["PREFIX", "PROTOCOLS", "Note", "Protocol", "find", "words_of"]

PREFIX = "protocol:"
"""The prefix of a protocol's name where an experiment's file is expected."""
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for paper in (prewarm, clusters, smart_init, data_dependent)
    for protocol in paper.protocols()
}


def find(name: str) -> Protocol:
    """Return a protocol.

    Args:
        name: With or without ``protocol:`` before it.

    Raises:
        UnknownNameError: If there is none of that name; the nearest are listed.

    Example:
        >>> find("protocol:prewarm-svhn-published").words["lr"]
        0.0005
    """
    name = name.removeprefix(PREFIX)
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def words_of(name: str, given: Container[str] = ()) -> Mapping[str, Any]:
    """Return the settings of a protocol, as from an experiment's file.

    Args:
        name: The name of the protocol.
        given: Settings that the user gives besides.

    Returns:
        Its settings with their values, and its own folder.

    Raises:
        UnknownNameError: If there is no such protocol.
        HeadstartError: The protocol needs a setting that the user does not give.

    Example:
        >>> words_of("clusters-pairs-published")["out"]
        'runs/clusters-pairs-published'
    """
    protocol = find(name)
    lacking = [word for word in protocol.needs if word not in given]
    if lacking:
        raise HeadstartError(
            f"The protocol '{protocol.name}' leaves the {lacking[0]} to you.",
            remedy=f"Name it: headstart compare {PREFIX}{protocol.name} {protocol.variants[0][0]}.",
        )
    return {**protocol.words, "out": f"runs/{protocol.name}"}
