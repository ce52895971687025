import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    pytest.importorskip("fastai", reason="fastai is not installed: make test-hosts")

    from fastai.callback.core import Callback
    from fastai.callback.schedule import *  # noqa: F403 - adds lr_find to learners
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from torch.utils.data import TensorDataset

    from headstart.integrations.fastai import HeadstartCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class First(Callback):
    def before_batch(self):
        if not hasattr(self, "weights"):
            self.weights = [p.detach().clone() for p in self.learn.model.parameters()]


@pytest.fixture
def learner(tmp_path, net, images, labels):
    def make(*callbacks, model=None):
        data = TensorDataset(images, labels)
        dls = DataLoaders.from_dsets(data, data, bs=16, device="cpu")
        return Learner(
            dls, model or net, loss_func=torch.nn.functional.cross_entropy, cbs=[*callbacks], path=tmp_path, lr=0.1
        )

    return make


def load(model, weights):
    with torch.no_grad():
        for own, kept in zip(model.parameters(), weights, strict=True):
            own.copy_(kept)
    return model


def test_the_first_step_sees_the_start_once(learner, net, is_started, weights_of):
    callback, first = HeadstartCallback("within-layer"), First()
    learn = learner(callback, first)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        trained = weights_of(net)
        assert is_started(load(net, first.weights))
        load(net, trained)
        del first.weights
        learn.fit(1)
    assert callback.report.changed == ["0", "2", "6"]
    assert all(torch.equal(a, b) for a, b in zip(first.weights, trained, strict=True))
    own = {id(p) for group in learn.opt.all_params() for p in group[:1]}
    assert own == {id(p) for p in net.parameters()}


def test_a_fit_that_begins_at_a_later_epoch_starts_nothing(learner, net, weights_of):
    learn = learner(HeadstartCallback("within-layer"))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        learn.save("last")
        trained = weights_of(net)
        callback, first = HeadstartCallback("within-layer"), First()
        again = learner(callback, first, model=type(net)(*net))
        again.load("last")
        with again.no_bar(), again.no_logging():
            again.fit(2, start_epoch=1)
    assert callback.report is None
    assert all(torch.equal(a, b) for a, b in zip(first.weights, trained, strict=True))


def test_the_learning_rate_finder_puts_the_start_back(learner, net, is_started):
    learn = learner(HeadstartCallback("within-layer"))
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=6, show_plot=False)
    assert is_started(net)


def test_the_order_of_the_samples_is_what_it_is_without_the_callback(learner):
    class Order(Callback):
        def before_batch(self):
            seen.append(self.learn.yb[0].clone())

    seen = []
    for callbacks in ((), (HeadstartCallback("within-layer"),)):
        torch.manual_seed(0)
        learn = learner(*callbacks, Order())
        learn.dls.train.rng.seed(5)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
    half = len(seen) // 2
    assert torch.equal(torch.cat(seen[:half]), torch.cat(seen[half:]))


def test_the_page(run_page, learner, net):
    dls = learner().dls
    learn = run_page("with-other-trainers.md", "fastai", dls=dls, model=net, loss=torch.nn.functional.cross_entropy)[
        "learn"
    ]
    (callback,) = [each for each in learn.cbs if isinstance(each, HeadstartCallback)]
    assert callback.report.changed
