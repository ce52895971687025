"""Lightning Fabric: a trial's device and precision, and several devices for one model."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from headstart.bench.trials.training import Training
from headstart.errors import HeadstartError, needs_extra

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Argument = TypeVar("Argument")
_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
# Fabric tells of every start on standard error, in the middle of the progress bars. Also in processes that it starts.
logging.getLogger("lightning_fabric.utilities").setLevel(logging.WARNING)
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")


def make_fabric(config: Training) -> Fabric:
    """Build the Fabric of a trial.

    Args:
        config: The training, with the device resolved. Several devices are processes that :func:`launch` starts.

    Raises:
        MissingExtraError: If Lightning Fabric is not installed.
    """
    with needs_extra(package="lightning-fabric", extra="bench", what="Training"):
        from lightning_fabric import Fabric
    device = torch.device(config.device)
    several = config.devices > 1
    where: Any = config.devices if several or device.index is None else [device.index]
    if device.type == "cpu":
        where = config.devices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for users of Fabric itself
        return Fabric(
            accelerator=device.type,
            devices=where,
            precision=_PRECISION[config.precision],  # type: ignore[arg-type]
            strategy="ddp_spawn" if several else "auto",
        )


def launch(config: Training, function: Callable[[Fabric, Argument], Any], argument: Argument) -> Any:
    """Run a function in one process per device, together.

    Args:
        config: The training, with the number of devices.
        function: Called on every device with its Fabric and the argument. Both are pickled.
        argument: Passed to the function.

    Returns:
        What the first device's call returned.

    Raises:
        HeadstartError: A process raised one (with its message) or died.
        RuntimeError: A process raised another error; its text is that process's traceback.
    """
    fabric = make_fabric(config)
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder, _rendezvous():
        # Fabric's own way back is a pipe that is read after the processes have ended, which a long result would fill.
        answer = Path(folder, "answer")
        others = set(multiprocessing.active_children())
        try:
            # As bytes: Fabric looks for modules inside arguments and stumbles over frozen dataclasses.
            fabric.launch(_call, pickle.dumps((function, argument)), str(answer))  # type: ignore[arg-type]
        except ProcessException as error:
            raise _translated(error) from error
        except BaseException:  # an interruption: the processes know nothing of it
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
                process.join()
            raise
        return pickle.loads(answer.read_bytes())  # noqa: S301 - written by our own process a moment ago


def leave_with_parent() -> None:
    """End this process as soon as the one that started it has ended."""

    def leave() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, name="headstart-parent", daemon=True).start()


def _call(fabric: Fabric, task: bytes, answer: str) -> None:
    leave_with_parent()
    function, argument = pickle.loads(task)  # noqa: S301 - from the process that started this one
    result = function(fabric, argument)
    if fabric.is_global_zero:
        Path(answer).write_bytes(pickle.dumps(result))
    # Left to the interpreter's end, the group's threads may abort the process.
    fabric.barrier()
    torch.distributed.destroy_process_group()


def _translated(error: Exception) -> Exception:
    """Turn a process's traceback into our own error, if one ended it."""
    text = str(error)
    lines = text.strip().splitlines()
    for place, line in reversed(list(enumerate(lines))):  # the last is the error itself, those before it its causes
        if found := re.match(r"headstart\.errors\.\w+: (.*)", line):
            return HeadstartError("\n".join([found[1], *lines[place + 1 :]]))
    if isinstance(error, ProcessExitedException):
        return HeadstartError(
            f"A process of a trial on several devices died: {lines[-1]}", remedy="Most likely memory ran out."
        )
    return RuntimeError(text)


@contextlib.contextmanager
def _rendezvous() -> Iterator[None]:
    """Forget the rendezvous, so that the next processes choose a free port."""
    before = {name: os.environ.pop(name) for name in _RENDEZVOUS if name in os.environ}
    try:
        yield
    finally:
        for name in _RENDEZVOUS:
            os.environ.pop(name, None)
        os.environ.update(before)
