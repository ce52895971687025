"""MONAI and ignite: ``HeadstartHandler().attach(trainer)``."""

from __future__ import annotations

from typing import Any

from headstart.integrations._starter import Starter, fresh, missing_host

try:
    from ignite.engine import Events
except ImportError as error:
    raise missing_host("monai", "pytorch-ignite", error) from error


class HeadstartHandler(Starter):
    """Start a trainer's network when its run begins: once, and not when it resumes from a checkpoint.

    Attach it before MONAI's ``CheckpointLoader``, whose weights then replace the start. Rank 0 computes and broadcasts.
    Parameters are written in place, so the optimizer keeps them.

    Args:
        method: As for :func:`headstart.initialize`.
        data: Likewise; by default samples of the trainer's data, through its ``prepare_batch``.
        seed: Likewise.
        module: The name of a submodule to start, if not the whole network.
        **options: The others of :func:`headstart.initialize`.

    Example::

        trainer = SupervisedTrainer(device, epochs, loader, network, optimizer, loss)
        HeadstartHandler("auto", samples=8).attach(trainer)
        trainer.run()
    """

    def attach(self, engine: Any) -> None:
        """Register at the start of the trainer's run."""
        engine.add_event_handler(Events.STARTED, self.on_started)

    def on_started(self, engine: Any) -> None:
        """Start, unless iterations were run before or it was done."""
        if engine.state.iteration or self.report is not None:
            return

        def inputs(batch: Any) -> Any:
            found = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)[0]
            return found.as_tensor() if hasattr(found, "as_tensor") else found

        loader = fresh(engine.data_loader, self.seed, self.options.get("samples"))
        self.start(engine.network, loader, get_inputs=inputs)
