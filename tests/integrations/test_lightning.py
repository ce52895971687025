import subprocess
import sys
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    pytest.importorskip("lightning", reason="Lightning is not installed: make test-hosts")

    from lightning.pytorch import LightningModule, Trainer

    from headstart.integrations.lightning import HeadstartCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(LightningModule):
    def __init__(self, net, rate=0.0):
        super().__init__()
        self.net, self.rate, self.first = net, rate, None

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        if self.first is None:
            self.first = [p.detach().clone() for p in self.net.parameters()]
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


@pytest.fixture
def fit(tmp_path, images, labels):
    def run(module, callback, ckpt_path=None, epochs=1):
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            default_root_dir=tmp_path,
            callbacks=[callback],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        return trainer

    return run


def test_the_first_step_sees_the_start_and_the_optimizer_its_parameters(fit, net, is_started):
    callback, module = HeadstartCallback("within-layer"), Module(net)
    assert not is_started(net)
    trainer = fit(module, callback)
    assert is_started(net)
    assert callback.report.changed == ["net.0", "net.2", "net.6"]
    assert {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]} == {id(p) for p in net.parameters()}


def test_a_submodule_and_the_users_own_data(fit, net, images, is_started):
    callback = HeadstartCallback("within-layer", images, module="net", samples=32)
    fit(Module(net), callback)
    assert is_started(net)
    assert callback.report.changed == ["0", "2", "6"]


def test_a_resumed_fit_starts_nothing(fit, net, tmp_path, weights_of):
    trainer = fit(Module(net, rate=0.1), HeadstartCallback("within-layer"))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trained = weights_of(net)
    callback, again = HeadstartCallback("within-layer"), Module(type(net)(*net), rate=0.1)
    fit(again, callback, ckpt_path=tmp_path / "last.ckpt", epochs=2)
    assert callback.report is None
    assert all(torch.equal(a, b) for a, b in zip(trained, again.first, strict=True))


def test_a_second_fit_goes_on(fit, net, weights_of):
    callback = HeadstartCallback("within-layer")
    fit(Module(net, rate=0.1), callback)
    trained, module = weights_of(net), Module(net, rate=0.1)
    fit(module, callback)
    assert all(torch.equal(a, b) for a, b in zip(trained, module.first, strict=True))


def test_the_order_of_the_samples_is_what_it_is_without_the_callback(fit, net, images, labels):
    seen = []

    class Noting(Module):
        def training_step(self, batch, index):
            seen.append(batch[1])
            return super().training_step(batch, index)

    from lightning.pytorch import Callback

    for callback in (Callback(), HeadstartCallback("within-layer")):
        torch.manual_seed(3)
        fit(Noting(net), callback)
    assert torch.equal(torch.cat(seen[:4]), torch.cat(seen[4:]))


def test_the_page(run_page, net, images, labels):
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    trainer = run_page("with-lightning.md", "lightning", module=Module(net), loader=loader)["trainer"]
    (callback,) = [each for each in trainer.callbacks if isinstance(each, HeadstartCallback)]
    assert callback.report.changed


RANKS = """
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from headstart.integrations.lightning import HeadstartCallback


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        if index == 0:
            torch.save(self.net.state_dict(), f"rank{self.global_rank}.pt")
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


if __name__ == "__main__":
    loader = DataLoader(TensorDataset(torch.randn(64, 1, 10, 10), torch.arange(64) % 3), batch_size=16)
    callback = HeadstartCallback("within-layer")
    trainer = Trainer(
        max_steps=1, accelerator="cpu", devices=2, strategy="ddp_spawn", callbacks=[callback], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )
    torch.manual_seed(0)
    module = Module()
    torch.save(module.net.state_dict(), "before.pt")
    trainer.fit(module, loader)
"""


@pytest.mark.slow
def test_all_ranks_get_the_start_of_the_first(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-W", "ignore", "ranks.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("before", "rank0", "rank1")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(before["0.weight"], first["0.weight"])
