"""Methods on networks of Hugging Face, timm and MONAI, of random configurations: they keep the contract, or refuse."""

import importlib
import warnings

import pytest
import torch

import headstart as hs
from headstart.conformance.runs import attempt, build, run
from headstart.engine import registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    for package in ("transformers", "monai", "timm"):
        pytest.importorskip(package, reason=f"{package} is not installed: make test-hosts")

pytestmark = pytest.mark.filterwarnings("ignore")
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NEEDS_OPTIONS = {"pretrained", "weight-selection", "aligned-clusters"}


def tokens(high=50):
    return torch.randint(1, high, (8, 10), generator=torch.Generator().manual_seed(0))


def images(size=32, *more):
    return torch.rand(8, 3, size, size, *more, generator=torch.Generator().manual_seed(0))


def hugging_face(kind, **options):
    import transformers as package

    config = getattr(package, f"{kind[0]}Config")(**options)
    return lambda: getattr(package, kind[0] + kind[1])(config)


def bert():
    return hugging_face(("Bert", "ForSequenceClassification"), vocab_size=50, **WIDE), {"input_ids": tokens()}


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 50}
    return hugging_face(("GPT2", "LMHeadModel"), bos_token_id=1, eos_token_id=2, **sizes), {"input_ids": tokens()}


def llama():
    more = {"num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 16}
    return hugging_face(("Llama", "ForCausalLM"), bos_token_id=1, eos_token_id=2, **more, **WIDE), {
        "input_ids": tokens()
    }


def vit():
    return hugging_face(("ViT", "ForImageClassification"), image_size=32, patch_size=8, **WIDE), images()


def convnext():
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 32}
    return hugging_face(("ConvNext", "ForImageClassification"), **sizes), images()


def whisper():
    import transformers as package

    module = importlib.import_module("transformers.models.whisper.modeling_whisper")
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    config = package.WhisperConfig(num_mel_bins=12, max_source_positions=20, **sizes)
    sounds = torch.randn(8, 12, 40, generator=torch.Generator().manual_seed(0))
    return lambda: module.WhisperEncoder(config), sounds


def timm_vit():
    from timm import models

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return lambda: models.VisionTransformer(**sizes), images()


def timm_convnext():
    from timm import models

    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 5}
    return lambda: models.ConvNeXt(**sizes), images()


def monai_unet():
    from monai.networks import nets

    sizes = {"channels": (4, 8), "strides": (2,), "num_res_units": 1}
    volumes = torch.rand(4, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return lambda: nets.UNet(3, 1, 2, **sizes), volumes


def monai_segresnet():
    from monai.networks import nets

    sizes = {"init_filters": 8, "in_channels": 1, "out_channels": 2, "blocks_down": (1, 1), "blocks_up": (1,)}
    volumes = torch.rand(4, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return lambda: nets.SegResNet(3, **sizes), volumes


NETWORKS = [bert, gpt2, llama, vit, convnext, whisper, timm_vit, timm_convnext, monai_unet, monai_segresnet]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("method", [n for n in registry.list_methods() if n not in NEEDS_OPTIONS])
def test_a_method_writes_what_it_reports_or_refuses_and_leaves_all(method, network):
    factory, data = network()
    attempt(method, build(factory), data)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda f: f.__name__)
def test_a_network_of_its_kind_is_a_source(network):
    factory, data = network()
    teacher = build(factory, seed=1)
    student = build(factory)
    report = run(hs.Pretrained(teacher, head="require"), student, data)
    state = teacher.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
    assert report.changed
    student = build(factory)
    run(hs.WeightSelection(teacher, head="select"), student, data)
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda f: f.__name__)
def test_a_diagnosis_shows_every_layer_that_multiplies(network):
    factory, data = network()
    model = build(factory)
    shown = {row.name for row in hs.diagnose(model, data).rows}
    matrices = [name for name, p in model.named_parameters() if p.dim() > 1]
    assert {name.removesuffix(".weight") for name in matrices if name.endswith(".weight")} <= shown


# Two blocks each: queries, keys, values and output in one layer and another, or in four.
ATTENTION = {bert: 8, gpt2: 4, llama: 0, vit: 8, whisper: 8, timm_vit: 4}


@pytest.mark.parametrize("network", ATTENTION, ids=lambda f: f.__name__)
def test_attention_is_found_whoever_wrote_it(network):
    factory, data = network()
    report = run("mimetic", build(factory), data)
    assert len(report.changed) == ATTENTION[network]
    shared = [f for f in report.findings if "4 heads" in f and "share 2 heads of keys" in f]
    assert len(shared) == (2 if network is llama else 0), report.findings


# Attention and a hidden layer in each of two blocks; one branch in each of four, or of three.
BRANCHES = {
    bert: 4,
    gpt2: 4,
    llama: 4,
    vit: 4,
    whisper: 4,
    timm_vit: 4,
    convnext: 4,
    timm_convnext: 4,
    monai_segresnet: 3,
}


@pytest.mark.parametrize("network", BRANCHES, ids=lambda f: f.__name__)
def test_residual_branches_are_found_whoever_wrote_them(network):
    factory, data = network()
    report = run("residual:depth", build(factory), data)
    assert any(f"residual: {BRANCHES[network]} residual branches" in f for f in report.findings), report.findings


def test_auto_writes_the_first_layer_over_volumes_as_whitening_does():
    from monai.networks import nets

    _, volumes = monai_unet()
    plain = lambda: nets.UNet(3, 1, 2, channels=(4, 8), strides=(2,))  # noqa: E731
    for factory in (plain, monai_segresnet()[0]):
        one, other = build(factory), build(factory)
        assert len(run("auto", one, volumes).changed) == 1
        run("whitening", other, volumes)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
