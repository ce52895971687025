"""fastai: ``Learner(dls, model, cbs=HeadstartCallback())``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from headstart import rng
from headstart.integrations._starter import Starter, missing_host
from headstart.model.inputs import map_tensors

try:
    from fastai.callback.core import Callback
except ImportError as error:
    raise missing_host("fastai", "fastai", error) from error


class HeadstartCallback(Starter, Callback):
    """Start a learner's model before its first fit only, and not if that fit begins at a later epoch.

    Parameters are written in place, so the optimizer keeps them. ``lr_find`` counts as a fit: it runs from the start,
    and restores the start's weights.

    Args:
        method: As for :func:`headstart.initialize`.
        data: Likewise; by default the first batch of the training data.
        seed: Likewise.
        module: The name of a submodule to start, if not the whole model.
        **options: The others of :func:`headstart.initialize`.

    Example::

        learn = Learner(dls, model, loss_func=loss, cbs=HeadstartCallback("auto"))
        learn.fit_one_cycle(5)                # starts
        learn.fit(10, start_epoch=5)          # continues; no start
    """

    order = -20  # before the learning rate finder keeps the weights that it puts back

    def before_fit(self) -> None:
        """Start, unless epochs are skipped or it was done."""
        if self.report is not None or hasattr(self.learn, "skip_to_epoch"):
            return
        batch = None
        if self.data is None:
            loader = self.dls.train
            own, state = loader.rng, loader.rng.getstate()
            with rng.untouched():
                batch = map_tensors(loader.one_batch(), lambda tensor: tensor.as_subclass(Tensor))
            loader.rng = own
            own.setstate(state)
        count = self.dls.n_inp

        def inputs(found: Any) -> Any:
            return found[0] if count == 1 else tuple(found[:count])

        self.start(self.learn.model, [batch], get_inputs=inputs)
