"""Hugging Face's Trainer: ``callbacks=[HeadstartCallback()]``, or ``model_init=model_init(build, data)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from headstart import api
from headstart.api import MethodLike
from headstart.integrations._starter import Starter, fresh, missing_host

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing_host("transformers", "transformers", error) from error


class HeadstartCallback(Starter, TrainerCallback):
    """Start a model when its training begins: once, before the first step, and never on resume.

    Rank 0 computes and broadcasts. Parameters are written in place, so the optimizer keeps them.

    Args:
        method: As for :func:`headstart.initialize`.
        data: Likewise; by default samples of the training data, collated as the trainer does.
        seed: Likewise.
        module: The name of a submodule to start, if not the whole model.
        **options: The others of :func:`headstart.initialize`.

    Example::

        trainer = Trainer(model, args, train_dataset=data, callbacks=[HeadstartCallback("auto")])
        trainer.train()                                # starts
        trainer.train(resume_from_checkpoint=True)     # continues; no start
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start, unless a checkpoint is resumed or it was done."""
        if state.global_step or self.report is not None:
            return
        loader = fresh(kwargs["train_dataloader"], self.seed, self.options.get("samples"))
        self.start(kwargs["model"], loader)


def model_init(
    build: Callable[[], nn.Module], data: Any = None, method: MethodLike = "auto", *, seed: int = 0, **options: Any
) -> Callable[[], nn.Module]:
    """Wrap a function that builds a model, for ``Trainer(model_init=...)``, so that the model gets a start.

    When the trainer resumes, its checkpoint replaces the start.

    Args:
        build: Takes nothing, returns the model.
        data: As for :func:`headstart.initialize`.
        method: Likewise.
        seed: Likewise.
        **options: The others of :func:`headstart.initialize`.
    """

    def started() -> nn.Module:
        model = build()
        api.initialize(model, data, method, seed=seed, **options)
        return model

    return started
