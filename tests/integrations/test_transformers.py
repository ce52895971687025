import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    pytest.importorskip("transformers", reason="transformers is not installed: make test-hosts")
    pytest.importorskip("accelerate", reason="accelerate is not installed: make test-hosts")

    from safetensors.torch import load_file
    from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments

    from headstart.cli.main import main
    from headstart.integrations.transformers import HeadstartCallback, model_init

FIRST = "resnet.embedder.embedder.convolution.weight"
pytestmark = pytest.mark.filterwarnings("ignore")


class First(TrainerCallback):
    """Keeps the weights before the first step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "weights"):
            self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}


def network():
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
    )
    return ResNetForImageClassification(config)


@pytest.fixture
def rows(images, labels):
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]


@pytest.fixture
def trainer(tmp_path, rows):
    def make(callback, model=None, steps=2, **more):
        arguments = TrainingArguments(
            tmp_path / "out",
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=0.1,
            report_to=[],
            save_steps=2,
            use_cpu=True,
            disable_tqdm=True,
            seed=1,
            logging_strategy="no",
        )
        first = First()
        made = Trainer(
            model, arguments, train_dataset=rows, callbacks=[each for each in (callback, first) if each], **more
        )
        return made, first

    return make


def test_the_first_step_sees_the_start_and_the_optimizer_its_parameters(trainer):
    model, callback = network(), HeadstartCallback("lsuv")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made, first = trainer(callback, model)
    made.train()
    changed = {name for name in before if not torch.equal(before[name], first.weights[name])}
    assert FIRST in changed
    assert callback.report.changed
    own = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert own <= {id(p) for p in model.parameters()}


def test_a_resumed_training_starts_nothing(trainer, tmp_path):
    made, _ = trainer(HeadstartCallback("lsuv"), network())
    made.train()
    trained = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    callback = HeadstartCallback("lsuv")
    again, first = trainer(callback, network(), steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert callback.report is None
    assert all(torch.equal(trained[name], first.weights[name]) for name in trained)


def test_model_init_starts_what_it_builds(trainer, images):
    made, first = trainer(None, model_init=model_init(network, {"pixel_values": images}, "lsuv"))
    made.train()
    plain, other = trainer(None, model_init=network)
    plain.train()
    assert not torch.equal(first.weights[FIRST], other.weights[FIRST])


def test_the_samples_of_the_steps_are_the_same_with_it(trainer):
    seen = []
    for callback in (None, HeadstartCallback("lsuv")):
        made, _ = trainer(callback, network())
        inner = made.compute_loss
        made.compute_loss = lambda model, inputs, *a, inner=inner, **k: (
            seen.append(inputs["labels"]) or inner(model, inputs, *a, **k)
        )
        made.train()
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:4]))


def test_the_page(run_page, rows, tmp_path):
    arguments = TrainingArguments(tmp_path / "page", max_steps=1, report_to=[], use_cpu=True, save_strategy="no")
    trainer = run_page("with-hugging-face.md", "transformers", model=network(), arguments=arguments, rows=rows)[
        "trainer"
    ]
    (callback,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, HeadstartCallback)]
    assert callback.report.changed


@pytest.fixture
def config(tmp_path, images, monkeypatch):
    """A folder with a config.json and what lies beside it."""
    monkeypatch.chdir(tmp_path)
    torch.save(images, "images.pt")
    made = network().config
    made.architectures = ["ResNetForImageClassification"]
    made.save_pretrained("config")
    (tmp_path / "config" / "preprocessor_config.json").write_text("{}")
    return tmp_path / "config"


def init(*more):
    return main(["init", "config", "--data", "images.pt", "--method", "lsuv", *more])


def test_init_from_a_configuration_writes_what_from_pretrained_loads(config, tmp_path):
    assert init("--format", "hf", "--out", "start") == 0
    assert init("--out", "start.safetensors") == 0
    found, problems = ResNetForImageClassification.from_pretrained("start", output_loading_info=True)
    assert not problems["missing_keys"]
    wanted = load_file("start.safetensors")
    assert all(torch.equal(found.state_dict()[name], wanted[name]) for name in wanted)
    assert (tmp_path / "start" / "preprocessor_config.json").is_file()
    plain = network().state_dict()
    assert not torch.equal(plain[FIRST], wanted[FIRST])
    assert init("--format", "hf", "--out", "start") == 2  # it is there
    assert init("--format", "hf", "--out", "start", "--force") == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_configuration_that_makes_no_model_is_said(config, capsys):
    (config / "config.json").write_text('{"model_type": "nothing-like-it"}')
    assert init("--out", "start.pt") == 2
    assert "describes no model" in capsys.readouterr().err


def test_model_args_replace_values_of_the_configuration(config):
    assert init("--out", "start.safetensors", "--model-args", "num_labels=7") == 0
    assert load_file("start.safetensors")["classifier.1.weight"].shape[0] == 7
