"""Methods from installed packages: entry points of the group ``headstart.methods``.

They are imported when the registry is first asked for its list, or for a name that it does not have, and not with the
package itself. So the import stays quick, and built-in methods run no other package's code.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import metadata
from typing import Any

from headstart import rng

GROUP = "headstart.methods"


class Plugins:
    """The plug-ins of a process. Each is imported once, in the order of names.

    A plug-in that fails changes nothing: what it registered is removed again, and the others are loaded.

    Attributes:
        problems: One sentence per plug-in that could not be loaded.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._begun = False
        self._done = False

    def load(self, methods: MutableMapping[str, Any]) -> None:
        """Import what has not been imported yet.

        Args:
            methods: Name -> class; importing a plug-in adds its own.
        """
        if self._done:
            return
        with rng.untouched():  # other threads wait here; a plug-in's import may draw random numbers
            if self._begun:  # a plug-in asks the registry while it is imported: it gets what there is
                return
            self._begun = True
            try:
                self.problems = _load_all(methods)
                self._done = True
            finally:
                self._begun = False  # after an interrupt the next call begins again


def _load_all(methods: MutableMapping[str, Any]) -> list[str]:
    """Import all, in an order that does not depend on where they are installed; return their problems."""
    try:
        points = sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value, _package(p)))
    except Exception as error:
        return [f"The list of plug-ins could not be read: {_told(error)}."]
    return [problem for point in points if (problem := _load(point, methods))]


def _load(point: metadata.EntryPoint, methods: MutableMapping[str, Any]) -> str:
    """Import a plug-in; return its problems, if any."""
    before = dict(methods)
    what = f"The plug-in {point.name!r} ({_package(point)}: {point.value})"
    try:
        point.load()
    except (Exception, SystemExit) as error:
        methods.update(before)
        for name in methods.keys() - before.keys():
            del methods[name]
        return f"{what} could not be loaded: {_told(error)}."
    return "" if point.name in methods else f"{what} registers no method of that name."


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "no package"


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
