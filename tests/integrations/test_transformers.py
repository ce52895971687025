import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: make test-hosts")
pytest.importorskip("accelerate", reason="accelerate is not installed: make test-hosts")

from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

from headstart.integrations.transformers import HeadstartCallback, model_init

pytestmark = pytest.mark.filterwarnings("ignore")


class First(TrainerCallback):
    """Keeps the weights before the first step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "weights"):
            self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}


def vit():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=10,
        patch_size=5,
        num_channels=1,
        num_labels=3,
    )
    return ViTForImageClassification(config)


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
    model, callback = vit(), HeadstartCallback("lsuv")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made, first = trainer(callback, model)
    made.train()
    changed = {name for name in before if not torch.equal(before[name], first.weights[name])}
    assert "vit.embeddings.patch_embeddings.projection.weight" in changed
    assert callback.report.changed
    own = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert own <= {id(p) for p in model.parameters()}


def test_a_resumed_training_starts_nothing(trainer, tmp_path):
    made, _ = trainer(HeadstartCallback("lsuv"), vit())
    made.train()
    trained = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    callback = HeadstartCallback("lsuv")
    again, first = trainer(callback, vit(), steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert callback.report is None
    assert all(torch.equal(trained[name], first.weights[name]) for name in trained)


def test_model_init_starts_what_it_builds(trainer, images):
    made, first = trainer(None, model_init=model_init(vit, {"pixel_values": images}, "lsuv"))
    made.train()
    plain, other = trainer(None, model_init=vit)
    plain.train()
    name = "vit.embeddings.patch_embeddings.projection.weight"
    assert not torch.equal(first.weights[name], other.weights[name])


def test_the_samples_of_the_steps_are_the_same_with_it(trainer):
    losses = []

    class Losses(TrainerCallback):
        def on_step_begin(self, args, state, control, train_dataloader=None, **kwargs):
            losses.append(torch.initial_seed())

    seen = []
    for callback in (None, HeadstartCallback("lsuv")):
        made, _ = trainer(callback, vit())
        inner = made.compute_loss
        made.compute_loss = lambda model, inputs, *a, inner=inner, **k: (
            seen.append(inputs["labels"]) or inner(model, inputs, *a, **k)
        )
        made.train()
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:4]))
