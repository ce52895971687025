import warnings

import pytest
import torch
from torch import nn

from headstart.bench.models import zoo
from headstart.bench.models.builders import parameter_count, resolve_model
from headstart.errors import HeadstartError, ModelError, UnknownNameError


def on_meta(name, channels, classes, side):
    with torch.device("meta"):
        return resolve_model(f"headstart:{name}")(channels, classes, (side, side))


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("resnet18", 1000, 11_689_512),
        ("resnet18-plain-stage1", 1000, 11_689_512),
        ("resnet50", 1000, 25_557_032),
        ("cifar-resnet20", 10, 269_722),
        ("cifar-resnet56", 10, 853_018),
        ("cifar-resnet20:norm=0", 10, 269_722 - 688),  # a bias per channel instead of a scale and a shift
        ("mobilenet-v1", 1000, 4_231_976),
        ("mobilenet-v1:width=8", 1000, 470_072),  # width multiplier 0.25
        ("mobilenet-v2", 1000, 3_504_872),
        ("mobilenet-v3-small", 1000, 2_542_856),
        ("vgg16", 1000, 138_357_544),
        ("vgg16-bn", 1000, 138_365_992),
        ("caffenet", 1000, 60_965_224),
    ],
)
def test_models_have_as_many_parameters_as_published(name, classes, parameters):
    assert parameter_count(on_meta(name, 3, classes, 227)) == parameters


IMAGES = [name for name, entry in zoo.ZOO.items() if not entry.sides or entry.asks == "images"]


@pytest.mark.parametrize("name", [n if n != "caffenet" else "caffenet:stride=1" for n in IMAGES])
@pytest.mark.parametrize(("channels", "size"), [(1, (32, 32)), (5, (33, 47))])
def test_every_model_takes_any_channels_classes_and_size(name, channels, size):
    with torch.device("meta"):
        model = resolve_model(f"headstart:{name}")(channels, 7, size).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert model(torch.zeros(2, channels, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    "name", ["resnet18", "cifar-resnet20", "cifar-resnet20:norm=0", "mobilenet-v1", "plain-cnn:depth=3"]
)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    model = resolve_model(f"headstart:{name}")(3, 10, (32, 32))
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("mobilenet-v2", "mobilenet_v2"),
        ("mobilenet-v3-small", "mobilenet_v3_small"),
    ],
)
def test_models_that_torchvision_has_start_and_compute_bitwise_as_there(torchvision_models, own, theirs):
    torch.manual_seed(3)
    reference = getattr(torchvision_models, theirs)(weights=None, num_classes=5).eval()
    torch.manual_seed(3)
    model = resolve_model(f"headstart:{own}")(3, 5, (64, 64)).eval()
    expected = reference.state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), reference(images))


@pytest.mark.parametrize(("own", "theirs"), [("vgg16", "vgg16"), ("vgg16-bn", "vgg16_bn")])
def test_vgg_has_the_names_and_shapes_of_torchvisions(torchvision_models, own, theirs):
    with torch.device("meta"):
        expected = getattr(torchvision_models, theirs)(weights=None).state_dict()
    found = on_meta(own, 3, 1000, 224).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


def test_the_plain_stage_adds_nothing_and_the_others_do():
    torch.manual_seed(0)
    model = resolve_model("headstart:resnet18-plain-stage1")(3, 10, (32, 32)).eval()
    x = torch.randn(2, 64, 8, 8)
    for stage in (model.layer1, model.layer2):
        last = stage[1]
        nn.init.zeros_(last.bn2.weight)
        inputs = x if stage is model.layer1 else torch.randn(2, 128, 8, 8)
        out = last(inputs)
        assert torch.equal(out, torch.zeros_like(out) if stage is model.layer1 else inputs.relu())


def test_option_a_shortcuts_skip_pixels_and_add_zero_channels():
    from headstart.bench.models.zoo.cifar_resnets import Block

    block = Block(2, 4, 2, norm=True).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(block(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(1, 2, 3, 3)], 1))


@pytest.mark.parametrize("depth", [1, 2, 3, 20, 200])
def test_plain_cnns_have_any_depth_and_halve_at_thirds(depth):
    model = on_meta(f"plain-cnn:depth={depth},width=4", 3, 10, 32)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == depth
    assert sum(m.stride == (2, 2) for m in convolutions) == min(2, depth - 1)
    assert convolutions[0].stride == (1, 1)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_a_deep_plain_cnn_in_torchs_start_loses_the_image():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        shallow, deep = (
            resolve_model(f"headstart:plain-cnn:depth={depth}")(3, 10, (16, 16))(images).std(0).mean()
            for depth in (2, 20)
        )
    assert deep < 1e-3 * shallow


@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2", "mobilenet-v3-small", "caffenet"])
def test_the_stem_stride_is_an_option(name):
    model = on_meta(f"{name}:stride=1", 3, 10, 64)
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).stride == (1, 1)


def test_caffenet_starts_as_caffe_does():
    torch.manual_seed(0)
    net = resolve_model("headstart:caffenet")(3, 2, (64, 64))
    assert net.conv2.weight.detach().std().item() == pytest.approx(0.01, rel=0.01)
    assert net.fc7.weight.detach().std().item() == pytest.approx(0.005, rel=0.01)
    ones = {name for name, p in net.named_parameters() if name.endswith("bias") and bool((p == 1).all())}
    zeros = {name for name, p in net.named_parameters() if name.endswith("bias") and bool((p == 0).all())}
    assert ones == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}
    assert zeros == {"conv1.bias", "conv3.bias", "fc8.bias"}
    assert net.conv2.groups == net.conv4.groups == net.conv5.groups == 2


@pytest.mark.parametrize(("name", "side"), [("caffenet", 39), ("caffenet:stride=1", 18), ("vgg16", 32)])
def test_the_smallest_image_works_and_a_smaller_one_is_refused(name, side):
    assert on_meta(name, 3, 2, side)(torch.zeros(1, 3, side, side, device="meta")).shape == (1, 2)
    with pytest.raises(ModelError, match=rf"at least {side}×{side}, not {side - 1}×{side - 1}"):
        on_meta(name, 3, 2, side - 1)


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("plain-cnn:dept=3", UnknownNameError, "Did you mean 'depth'"),
        ("plain-cnn:depth=0", HeadstartError, "not between 1 and 1000"),
        ("plain-cnn:depth=deep", HeadstartError, "not a whole number"),
        ("plain-cnn:depth=3,depth=4", HeadstartError, "twice"),
        ("resnet18:depth=3", HeadstartError, "takes no options"),
        ("resnet19", UnknownNameError, "Did you mean 'headstart:resnet18'"),
    ],
)
def test_wrong_names_and_options_get_a_clear_error(name, error, match):
    with pytest.raises(error, match=match):
        resolve_model(f"headstart:{name}")


def test_the_page_names_every_model_and_option(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "models.md").read_text()
    for name, entry in zoo.ZOO.items():
        assert f"`headstart:{name}`" in page
        for option in entry.options:
            assert f"`{option}`" in page
