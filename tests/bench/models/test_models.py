import sys

import pytest
import torch
from torch import nn

from headstart.bench.models.builders import ModelBuilder, check_outputs, first_layer, parameter_count, resolve_model
from headstart.bench.tasks.task import Split, Task
from headstart.errors import HeadstartError, MissingExtraError, ModelError, UnknownNameError


@pytest.mark.parametrize(
    ("channels", "size", "parameters"), [(1, (28, 28), 824_650), (3, (32, 32), 1_070_986), (5, (9, 14), None)]
)
def test_prewarm_cnn_takes_any_input(channels, size, parameters):
    model = resolve_model("headstart:prewarm-cnn")(channels, 10, size)
    assert model(torch.zeros(2, channels, *size)).shape == (2, 10)
    if parameters is not None:
        assert parameter_count(model) == parameters


def test_prewarm_cnn_says_when_images_are_too_small():
    with pytest.raises(ModelError, match="at least 4×4, not 3×9"):
        resolve_model("headstart:prewarm-cnn")(1, 10, (3, 9))


class Twice(nn.Linear):
    def forward(self, x):
        return (super().forward(x.flatten(1)),) * 2


def asked(classes):
    """A task of tiny images, two of them, and their labels."""
    split = Split(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
    return Task("tiny", split, split, split, classes), split.images, split.labels


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda classes: Twice(16, classes), "returned tuple on images of shape"),
        (lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(16, classes - 1)), r"shape \(2, 9\).*not .*\(2, 10\)"),
        (lambda classes: nn.Linear(4, classes), r"a tensor of shape \(2, 1, 4, 10\)"),
        (lambda classes: nn.Linear(3, classes), "The forward of 'net.py:f' failed on .*: RuntimeError: mat1 and mat2"),
        (lambda classes: nn.Sequential(nn.Flatten()), "has no parameter to train"),
    ],
)
def test_a_model_that_does_not_answer_with_a_number_per_class_is_refused(build, match):
    builder = ModelBuilder("net.py:f", "", lambda channels, classes, size: build(classes))
    state = torch.get_rng_state()
    with pytest.raises(ModelError, match=match):
        check_outputs(builder, *asked(10))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("classes", [10, 3])
def test_a_model_may_have_more_outputs_than_there_are_classes(classes):
    builder = ModelBuilder(
        "net.py:f", "", lambda channels, classes, size: nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    )
    check_outputs(builder, *asked(classes))


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "def plain():\n    return nn.Flatten()\n"
        "def sized(num_classes, *, in_channels=7, image_size):\n"
        "    return nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)\n"
        "def anything(**options):\n    return nn.Linear(len(options), 1)\n"
        "def needs(depth):\n    return nn.Identity()\n"
        "def no_module():\n    return 'resnet'\n"
        "def broken():\n    raise ValueError('bad\\nthing')\n"
        "class Net(nn.Module):\n    def __init__(self, classes):\n        super().__init__()\n"
    )
    return path


def test_a_users_function_gets_the_arguments_that_it_takes(user_file):
    assert isinstance(resolve_model(f"{user_file}:plain")(1, 2, (3, 4)), nn.Flatten)
    sized = resolve_model(f"{user_file}:sized")(3, 10, (4, 5))
    assert (sized.in_features, sized.out_features) == (60, 10)
    assert resolve_model(f"{user_file}:anything")(1, 2, (3, 4)).in_features == 5
    assert type(resolve_model(f"{user_file}:Net")(1, 2, (3, 4))).__name__ == "Net"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("needs", r"needs the argument\(s\) depth.*available are: classes, image_size"),
        ("no_module", "returned str"),
        ("broken", "raised ValueError: bad thing"),
    ],
)
def test_a_users_function_that_does_not_serve_gets_a_clear_error(user_file, name, match):
    builder = resolve_model(f"{user_file}:{name}")
    with pytest.raises(HeadstartError, match=match):
        builder(1, 2, (3, 4))


def test_a_users_file_is_told_apart_by_its_content(user_file):
    before = resolve_model(f"{user_file}:plain").fingerprint
    assert resolve_model(f"{user_file}:plain").fingerprint == before
    user_file.write_text(user_file.read_text().replace("Flatten()", "Identity()"))
    changed = resolve_model(f"{user_file}:plain")
    assert changed.fingerprint != before
    assert isinstance(changed(1, 2, (3, 4)), nn.Identity)


def test_a_users_file_that_is_not_there_is_named():
    with pytest.raises(HeadstartError, match=r"no file 'nix\.py'"):
        resolve_model("nix.py:build")


def test_a_users_file_that_fails_to_import_is_no_crash(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("import not_a_package_at_all\n")
    with pytest.raises(HeadstartError, match=r"Importing .* failed: ModuleNotFoundError"):
        resolve_model(f"{path}:build")
    path.write_text("def build(:\n")
    with pytest.raises(HeadstartError, match="SyntaxError"):
        resolve_model(f"{path}:build")


@pytest.mark.parametrize("spec", ["resnet18", "headstart:prewarm-cn", "zoo:resnet18", "timm:", ""])
def test_an_unknown_model_gets_the_known_ones(spec):
    with pytest.raises(UnknownNameError, match="headstart:prewarm-cnn"):
        resolve_model(spec)


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch, family):
    monkeypatch.setitem(sys.modules, family, None)
    with pytest.raises(MissingExtraError, match=rf"headstart\[{family}\]"):
        resolve_model(f"{family}:resnet18")


def test_a_package_that_does_not_import_has_its_cause_told(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match="operator torchvision::nms does not exist"):
        resolve_model("torchvision:resnet18")


class FakeZoo:
    """Stands for torchvision.models where torchvision does not import."""

    @staticmethod
    def list_models(module):
        return ["resnet18", "resnet50"]

    @staticmethod
    def get_model(name, weights, num_classes):
        assert weights is None
        return nn.Sequential(nn.Conv2d(3, num_classes, 3))


def test_torchvision_models_are_built_without_weights_for_three_channels(monkeypatch):
    import types

    package = types.ModuleType("torchvision")
    package.__version__, package.models = "0.0", FakeZoo
    monkeypatch.setitem(sys.modules, "torchvision", package)
    builder = resolve_model("torchvision:resnet18")
    assert builder(3, 7, (32, 32))[0].out_channels == 7
    with pytest.raises(ModelError, match=r"3 channels; these have 1.*timm:resnet18"):
        builder(1, 7, (32, 32))
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
        resolve_model("torchvision:resnet19")


def test_timm_models_take_any_channels_and_size(timm):
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        model = resolve_model(f"timm:{name}")(5, 4, (32, 32)).eval()
        assert model(torch.zeros(2, 5, 32, 32)).shape == (2, 4)
    with pytest.raises(UnknownNameError, match="resnet10t"):
        resolve_model("timm:resnet10tt")


def test_torchvisions_own_models_are_found(torchvision_models):
    model = resolve_model("torchvision:resnet18")(3, 7, (32, 32)).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_first_layer_is_the_first_convolution_or_else_linear():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Conv1d(2, 2, 3)))
    assert first_layer(model)[0] == "1.0"
    assert first_layer(nn.Sequential(nn.ReLU())) is None
