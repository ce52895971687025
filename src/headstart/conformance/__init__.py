"""The contract that every method keeps, as checks that run on any method, yours included.

In a test file::

    import pytest
    from headstart.conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
    def test_contract(check):
        check(MyMethod())

or in one call, ``headstart.conformance.check(MyMethod())``. Each check is a function of a method (a name, a
configured method, or a list of those) that raises ``AssertionError`` and says what was broken.

Imports the front door and what lies below it. Nothing else in the package imports it; tests do.
"""

from __future__ import annotations

from collections.abc import Collection

from headstart.api import MethodLike
from headstart.conformance import calls, draws, keeps, kinds, parts, refusals
from headstart.conformance import runs as _runs
from headstart.errors import unknown

__all__ = ["CHECKS", "calls", "check", "draws", "keeps", "kinds", "parts", "refusals"]

Check = _runs.Check
CHECKS: tuple[Check, ...] = tuple(_runs.CHECKS)


def check(method: MethodLike, *, skip: Collection[str] = ()) -> None:
    """Hold a method to the whole contract.

    Args:
        method: A name, a configured method, or a list of those.
        skip: Names of checks to leave out, such as ``"other_seed_differs"`` for a method without randomness.

    Raises:
        AssertionError: Which checks failed, and why; the first failure is its cause.
        UnknownNameError: ``skip`` names no check.

    Example:
        >>> import headstart.conformance as conformance
        >>> len(conformance.CHECKS) > 50
        True
        >>> conformance.check("kaiming", skip=[c.__name__ for c in conformance.CHECKS[1:]])
    """
    names = [c.__name__ for c in CHECKS]
    for name in skip:
        if name not in names:
            raise unknown("check", name, names)
    failures: dict[str, Exception] = {}
    for function in CHECKS:
        if function.__name__ in skip:
            continue
        try:
            function(method)
        except Exception as error:
            failures[function.__name__] = error
    if failures:
        lines = [f"  {name}: {error}" for name, error in failures.items()]
        count = f"{len(failures)} of {len(CHECKS) - len(skip)} checks"
        raise AssertionError("\n".join([f"{method!r} fails {count}:", *lines])) from next(iter(failures.values()))
