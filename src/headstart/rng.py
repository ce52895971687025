"""Named random streams, and a guard that restores the global ones.

Every random draw comes from a stream named by (seed, qualified parameter name, purpose). So adding,
excluding or reordering layers changes no other layer's draw, and the user's own random state never moves.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

from headstart.errors import HeadstartError
from headstart.restoring import Step, put_back

_LOCK = threading.RLock()  # the global states are one per process: calls from several threads take turns


def derive(seed: int, *names: str) -> int:
    """Hash a seed and names into an independent 63-bit seed.

    Example:
        >>> derive(0, "conv1.weight") == derive(0, "conv1.weight")
        True
        >>> derive(0, "a", "b") == derive(0, "ab")
        False
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *names: str) -> torch.Generator:
    """Return a CPU generator for the stream (seed, names)."""
    return torch.Generator().manual_seed(derive(seed, *names))


def seed_of(seed: int | torch.Generator) -> int:
    """Turn the public ``seed`` argument into an integer; a generator is advanced by one draw.

    Raises:
        HeadstartError: It is neither a whole number nor a generator.
    """
    if isinstance(seed, torch.Generator):
        return int(torch.randint(0, 2**62, (), generator=seed, device=seed.device))
    try:
        return operator.index(seed)
    except TypeError as error:
        raise HeadstartError(
            f"seed={seed!r} is not a whole number.", remedy="Pass an int or a torch.Generator."
        ) from error


@contextlib.contextmanager
def untouched(seed: int | None = None) -> Iterator[None]:
    """Restore the global random states of torch, numpy and Python on exit, whatever happens inside.

    Args:
        seed: Seed the global streams inside, so that code that draws from them (a loader's shuffling, a
            stochastic forward) depends on the seed alone.
    """
    with _LOCK:
        steps = _way_back()
        try:
            if seed is not None:
                number = derive(seed, "global")
                torch.default_generator.manual_seed(number)  # torch.manual_seed would reach devices not started yet
                if torch.cuda.is_available() and torch.cuda.is_initialized():
                    torch.cuda.manual_seed_all(number)
                np.random.seed(number & 0xFFFFFFFF)  # noqa: NPY002
                random.seed(number)
            yield
        except BaseException as error:
            put_back(steps, error)
            raise
        put_back(steps)


class OwnStates:
    """Global random states of one piece of work among several that take turns: no turn sees what others drew.

    They begin as the global states are when this is made.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> one, other = OwnStates(), OwnStates()
        >>> with one.turn():
        ...     a = torch.rand(1)
        >>> with other.turn():
        ...     b = torch.rand(1)
        >>> with one.turn():
        ...     c = torch.rand(1)
        >>> bool(a == b), bool(a == c)
        (True, False)
    """

    def __init__(self) -> None:
        self._own = _way_back()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Put these states in the place of the global ones, and keep them on exit for the next turn."""
        with _LOCK:
            others = _way_back()
            put_back(self._own)
            try:
                yield
            except BaseException as error:
                put_back(others, error)
                raise
            self._own = _way_back()
            put_back(others)


def _way_back() -> list[Step]:
    """Steps that bring all global random states back to what they are now."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    torch_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state_all() if cuda else []
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is what must be kept
    python_state = random.getstate()
    return [
        ("torch's random state", lambda: torch.set_rng_state(torch_state)),
        ("CUDA's random states", lambda: torch.cuda.set_rng_state_all(cuda_state) if cuda else None),
        ("numpy's random state", lambda: np.random.set_state(numpy_state)),  # noqa: NPY002
        ("Python's random state", lambda: random.setstate(python_state)),
    ]
