import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    pytest.importorskip("monai", reason="MONAI is not installed: make test-hosts")
    pytest.importorskip("ignite", reason="ignite is not installed: make test-hosts")

    from ignite.engine import Events
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedTrainer
    from monai.handlers import CheckpointLoader, CheckpointSaver
    from monai.networks.nets import UNet

    from headstart.integrations.monai import HeadstartHandler

pytestmark = pytest.mark.filterwarnings("ignore")
FIRST = "model.0.conv.unit0.conv.weight"


@pytest.fixture
def trainer():
    def make(handler=None, epochs=1):
        torch.manual_seed(0)
        network = UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        volumes = [
            {"image": torch.randn(1, 8, 8, 8), "label": torch.randint(0, 2, (1, 8, 8, 8)).float()} for _ in range(8)
        ]
        loader = DataLoader(Dataset(volumes), batch_size=2)
        made = SupervisedTrainer(
            torch.device("cpu"),
            epochs,
            loader,
            network,
            optimizer,
            lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets[:, 0].long()),
        )
        first = {}
        if handler is not None:
            handler.attach(made)
        made.add_event_handler(
            Events.ITERATION_STARTED(once=1),
            lambda engine: first.update({k: v.clone() for k, v in network.state_dict().items()}),
        )
        return made, first

    return make


def test_the_first_step_sees_the_start_and_the_optimizer_its_parameters(trainer):
    handler = HeadstartHandler("lsuv", samples=4)
    made, first = trainer(handler)
    before = made.network.state_dict()[FIRST].clone()
    made.run()
    assert FIRST.removesuffix(".weight") in handler.report.changed
    assert not torch.equal(before, first[FIRST])
    assert {id(p) for g in made.optimizer.param_groups for p in g["params"]} == {
        id(p) for p in made.network.parameters()
    }


def test_a_resumed_run_starts_nothing(trainer, tmp_path):
    made, _ = trainer(HeadstartHandler("lsuv", samples=4))
    saved = {"net": made.network, "trainer": made}
    CheckpointSaver(tmp_path, saved, save_final=True, final_filename="last.pt").attach(made)
    made.run()
    handler = HeadstartHandler("lsuv", samples=4)
    again, _ = trainer(epochs=2)
    CheckpointLoader(str(tmp_path / "last.pt"), {"net": again.network, "trainer": again}).attach(again)
    handler.attach(again)
    seen = []
    again.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: seen.append(again.network.state_dict()[FIRST].clone())
    )
    again.run()
    assert handler.report is None
    assert torch.equal(seen[0], torch.load(tmp_path / "last.pt", weights_only=False)["net"][FIRST])


def test_a_loader_behind_it_puts_its_weights_over_the_start(trainer, tmp_path):
    kept = {"net": {k: v * 0 + 0.5 for k, v in trainer()[0].network.state_dict().items()}}
    torch.save(kept, tmp_path / "net.pt")
    made, _ = trainer(HeadstartHandler("lsuv", samples=4))
    loader = CheckpointLoader(str(tmp_path / "net.pt"), {"net": made.network})
    loader.attach(made)
    seen = []
    made.add_event_handler(
        Events.ITERATION_STARTED(once=1), lambda engine: seen.append(made.network.state_dict()[FIRST].clone())
    )
    made.run()
    assert torch.equal(seen[0], kept["net"][FIRST])


def test_the_page(run_page, trainer, monkeypatch):
    made, _ = trainer()
    reports = []
    real = HeadstartHandler.start
    monkeypatch.setattr(
        HeadstartHandler, "start", lambda self, *a, **k: real(self, *a, **k) or reports.append(self.report)
    )
    run_page(
        "with-other-trainers.md",
        "monai",
        device=torch.device("cpu"),
        loader=made.data_loader,
        network=made.network,
        optimizer=torch.optim.SGD(made.network.parameters(), 0.1),
        loss=lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets[:, 0].long()),
    )
    assert len(reports) == 1
    assert reports[0].rows
