import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    pytest.importorskip("skorch", reason="skorch is not installed: make test-hosts")

    from sklearn.base import clone
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback

    from headstart.integrations.skorch import HeadstartCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class First(Callback):
    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training and not hasattr(self, "weights"):
            self.weights = [p.detach().clone() for p in net.module_.parameters()]


@pytest.fixture
def make(net):
    def build(*callbacks, **options):
        torch.manual_seed(0)
        return NeuralNetClassifier(
            net,
            criterion=torch.nn.CrossEntropyLoss,
            max_epochs=1,
            lr=0.1,
            batch_size=16,
            verbose=0,
            callbacks=[*callbacks],
            **options,
        )

    return build


@pytest.fixture
def data(images, labels):
    return images.numpy(), labels.numpy().astype(np.int64)


def test_the_first_step_sees_the_start(make, data, is_started, images):
    callback, first = HeadstartCallback("within-layer"), First()
    fitted = make(callback, first).fit(*data)
    assert callback.report.changed == ["0", "2", "6"]
    fresh = make().initialize().module_
    with torch.no_grad():
        for own, kept in zip(fresh.parameters(), first.weights, strict=True):
            own.copy_(kept)
    assert is_started(fresh)
    own = {id(p) for group in fitted.optimizer_.param_groups for p in group["params"]}
    assert own == {id(p) for p in fitted.module_.parameters()}


def test_a_training_that_goes_on_starts_nothing(make, data, tmp_path):
    fitted = make(HeadstartCallback("within-layer")).fit(*data)
    report = fitted.callbacks[0].report
    fitted.partial_fit(*data)
    assert fitted.callbacks[0].report is report
    files = {"f_params": tmp_path / "p.pt", "f_history": tmp_path / "h.json", "f_optimizer": tmp_path / "o.pt"}
    fitted.save_params(**files)
    callback, first = HeadstartCallback("within-layer"), First()
    resumed = make(callback, first).initialize()
    resumed.load_params(**files)
    resumed.partial_fit(*data)
    assert callback.report is None
    saved = torch.load(files["f_params"], weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(saved.values(), first.weights, strict=True))


def test_a_clone_has_all_options():
    copy = clone(HeadstartCallback("lsuv", seed=3, module="net", samples=8))
    assert (copy.method, copy.seed, copy.module, copy.options) == ("lsuv", 3, "net", {"samples": 8})


def test_the_page(run_page, net, data):
    class Probable(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x).softmax(1)

    fitted = run_page("with-other-trainers.md", "skorch", build=Probable(*net), X=data[0], y=data[1])["net"]
    assert fitted.callbacks[0].report.changed
