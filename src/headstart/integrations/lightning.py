"""Lightning: ``Trainer(callbacks=[HeadstartCallback()])``."""

from __future__ import annotations

from typing import Any

from headstart.integrations._starter import Starter, fresh, missing_host

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise missing_host("lightning", "lightning", error) from error


class HeadstartCallback(Starter, Callback):
    """Start a module when its fit begins: once, and not when it resumes from a checkpoint.

    Rank 0 computes and broadcasts. Parameters are written in place, so the optimizers keep them.

    Args:
        method: As for :func:`headstart.initialize`.
        data: Likewise; by default samples of the training data.
        seed: Likewise.
        module: The name of the network inside the module (``"net"``), if the module's own ``forward`` does not run it.
        **options: The others of :func:`headstart.initialize`.

    Example::

        trainer = Trainer(callbacks=[HeadstartCallback("auto")])
        trainer.fit(module, loader)                      # starts
        trainer.fit(module, loader, ckpt_path="last")    # continues; no start
    """

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start, unless a checkpoint is resumed or it was done."""
        if trainer.ckpt_path or trainer.global_step or self.report is not None:
            return
        data = None
        if self.data is None:
            trainer.fit_loop.setup_data()
            data = fresh(trainer.train_dataloader, self.seed, self.options.get("samples"))
        self.start(pl_module, data)

    def state_dict(self) -> dict[str, Any]:
        """Record in the checkpoint how the module was started."""
        return {} if self.report is None else {"method": str(self.method), "seed": self.seed}
