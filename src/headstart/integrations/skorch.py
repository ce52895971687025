"""skorch: ``NeuralNetClassifier(module, callbacks=[HeadstartCallback()])``."""

from __future__ import annotations

from typing import Any

from headstart import rng
from headstart.integrations._starter import Starter, fresh, missing_host

try:
    from skorch.callbacks import Callback
except ImportError as error:
    raise missing_host("skorch", "skorch", error) from error


class HeadstartCallback(Starter, Callback):
    """Start a net when its training begins, and not when it continues (``partial_fit``, ``LoadInitState``).

    Each new ``fit`` has new weights, so it gets a new start. Parameters are written in place, so the optimizer keeps
    them.

    Args:
        method: As for :func:`headstart.initialize`.
        data: Likewise; by default samples of the training part of ``X`` and ``y``.
        seed: Likewise.
        module: The name of a submodule to start, if not the whole module.
        **options: The others of :func:`headstart.initialize`.

    Example::

        net = NeuralNetClassifier(build, callbacks=[HeadstartCallback("auto")])
        net.fit(X, y)
    """

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Start, unless epochs were trained before."""
        if len(net.history):
            return
        loader = None
        if self.data is None:
            with rng.untouched():
                training, _ = net.get_split_datasets(X, y)
                loader = fresh(net.get_iterator(training, training=True), self.seed, self.options.get("samples"))
        self.start(net.module_, loader)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments, with the options, so that a clone (in a grid search) has them too."""
        own = {"method": self.method, "data": self.data, "seed": self.seed, "module": self.module}
        return {**own, **self.options}
