"""Folding: the function stays, the norms are gone, and what cannot be folded is left and said."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import weight_norm

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.errors import HeadstartError

X = torch.randn(48, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def trained(model, x=X, times=3):
    torch.manual_seed(0)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        if norm.weight is not None:
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.normal_(norm.bias)
    with torch.no_grad():
        for _ in range(times):
            model.train()(x)
    return model.eval()


def norms(model):
    return [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def check(model, x=X, gone=None):
    with torch.no_grad():
        before = model(x)
        found = norms(model)
        folded = hs.fold_batch_norms(model, x)
        assert (model(x) - before).abs().max() <= 1e-5 * before.abs().max()
    assert sorted(folded.layers) == (sorted(found) if gone is None else gone)
    assert (
        norms(model) == [name for name in found if name not in folded.layers] == [n for n in found if n in folded.left]
    )
    return folded


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, 3, groups=2, padding=1, dilation=2),
        nn.Conv2d(4, 8, 1, groups=4),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 2),
        weight_norm(nn.Conv2d(4, 6, 3)),
    ],
    ids=["plain", "grouped", "depthwise", "transposed-grouped", "transposed", "weight-norm"],
)
@pytest.mark.parametrize("affine", [True, False])
def test_kinds_of_layers(layer, affine):
    net = nn.Sequential(copy.deepcopy(layer), nn.BatchNorm2d(layer.out_channels, affine=affine), nn.ReLU())
    check(trained(net))


@pytest.mark.parametrize(
    ("layer", "norm"), [(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6))]
)
def test_other_dimensions(layer, norm):
    x = X.flatten(2) if isinstance(layer, nn.Conv1d) else X.unflatten(3, (4, 2))
    check(trained(nn.Sequential(layer, norm), x), x)


def test_linear_layers():
    x = X.flatten(1)
    check(trained(nn.Sequential(nn.Linear(256, 6, bias=False), nn.BatchNorm1d(6)), x), x)


def test_it_equals_torchs_own_fusion():
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    fused = fuse_conv_bn_eval(net[0], net[1])
    hs.fold_batch_norms(net, X)
    assert torch.allclose(net[0].weight, fused.weight, rtol=1e-5, atol=1e-7)
    assert torch.allclose(net[0].bias, fused.bias, rtol=1e-5, atol=1e-6)


def test_what_belongs_to_the_layer_stays():
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)).double(), X.double())
    net.train()
    weight = net[0].weight
    net[1].bias.requires_grad_(False)
    hs.fold_batch_norms(net, X.double())
    assert net[0].weight is weight
    assert net[0].bias.dtype == torch.float64
    assert not net[0].bias.requires_grad
    assert weight.requires_grad
    assert all(m.training for m in net.modules())
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


class Shared(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.n, self.m = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        if kind == "tied weights":
            self.b.weight = self.a.weight

    def forward(self, x):
        y = self.a(x)
        if self.kind == "output used elsewhere":
            return self.n(y) + y
        if self.kind == "output returned":
            return torch.cat([y, self.n(y)], 1)
        if self.kind == "changed in place":
            y = y.relu_()
        if self.kind == "layer twice":
            return self.n(y) + self.m(self.a(x.flip(0)))
        if self.kind == "norm twice":
            return self.n(y) + self.n(self.b(x))
        if self.kind == "norm first":
            return self.a(F.relu(self.m(x)))
        return self.m(self.b(F.relu(self.n(y))))


@pytest.mark.parametrize(
    "kind",
    [
        "output used elsewhere",
        "output returned",
        "changed in place",
        "layer twice",
        "norm twice",
        "norm first",
        "tied weights",
    ],
)
def test_what_has_another_user_is_left(kind):
    gone = ["m"] if kind == "changed in place" else []
    folded = check(trained(Shared(kind)), gone=gone)
    assert len(folded.left) >= 1
    assert " stayed: " in str(folded)


class Twice(nn.Module):
    """One layer's output in two norms, and a plain pair behind them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.n, self.m, self.k = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.a(x)
        return self.k(self.b(F.relu(self.n(y) + self.m(y))))


def test_a_layer_with_two_norms_is_left_and_the_others_fold():
    folded = check(trained(Twice()), gone=["k"])
    assert set(folded.left) == {"n", "m"}


def test_a_weight_that_cannot_be_written_leaves_its_norm_alone():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    prune.l1_unstructured(net[0], "weight", 0.3)
    before = net[0].weight.detach().clone()
    folded = check(trained(net), gone=["4"])
    assert "1" in folded.left
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3)))
    folded = hs.fold_batch_norms(net.to(dtype), X.to(dtype))
    assert list(folded.layers) == ["1"]
    assert net[0].bias.dtype == dtype


def test_an_autocast_around_the_call_does_not_matter():
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)))
    with torch.autocast("cpu", torch.bfloat16):
        assert list(hs.fold_batch_norms(net, X).layers) == ["1"]


def test_hooks_of_the_layer_and_outputs_that_cannot_be_seen():
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    net[0].register_forward_hook(lambda *_: None)
    assert hs.fold_batch_norms(net, X).left == {"1": "the layer before it has hooks"}

    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))

        def forward(self, x):
            return type("Output", (), {"value": self.body(x)})()

    with pytest.raises(HeadstartError, match="no tensors that can be compared"):
        hs.fold_batch_norms(Opaque(), X)


def test_calibrate_takes_an_iterator():
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3)))
    assert "1 batch norms were folded" in hs.calibrate(net, iter([X, X]), fold=True).findings[0]


def test_fresh_norms_hooks_and_missing_statistics_are_left():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
    )
    folded = hs.fold_batch_norms(net, X)
    assert folded.left == {"1": "it was never trained", "3": "it has no running statistics"}
    trained(net)
    net[1].register_forward_hook(lambda *_: None)
    assert hs.fold_batch_norms(net, X).left["1"] == "it has hooks"


def test_a_sequence_whose_length_is_the_width_is_no_channel_axis():
    """Linear layers on (batch, length, features) put features last, and BatchNorm1d takes length."""
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6))
    x = torch.randn(20, 6, 5)
    check(trained(net, x), x, gone=[])


def test_undo_is_bitwise():
    net = trained(
        nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
    )
    before, modules = copy.deepcopy(net.state_dict()), list(net)
    folded = hs.fold_batch_norms(net, X)
    assert norms(net) == []
    folded.undo()
    assert list(net) == modules
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_model_that_needs_its_norms_is_put_back():
    class Needs(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.norm(self.conv(x))
            return y * (1 if isinstance(self.norm, nn.BatchNorm2d) else 2)

    net = trained(Needs())
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(HeadstartError, match="another function"):
        hs.fold_batch_norms(net, X)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert isinstance(net.norm, nn.BatchNorm2d)


def test_calibrate_folds_first_and_undoes_it_on_an_error():
    net = trained(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3)))
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected = net(X)

    def broken(outputs, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hs.calibrate(net, X, fold=True, loss_fn=broken)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    report = hs.calibrate(net, X, fold=True)
    assert report.findings[0] == "calibrate: 1 batch norms were folded into the layers before them."
    assert report.changed == ["0", "3"]
    with torch.no_grad():
        assert (net(X) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "name",
    [
        "cifar-resnet20",
        pytest.param("mobilenet-v2", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("mobilenet-v3-small", marks=pytest.mark.slow),
    ],
)
def test_zoo(name):
    torch.manual_seed(0)
    x = torch.randn(16, 3, 64, 64)
    model = resolve_model(f"headstart:{name}")(3, 10, (64, 64))
    with torch.no_grad():
        for _ in range(30):
            model.train()(x)
    check(model.eval().double(), x.double())  # in float32 rounding alone would be 1e-4


def test_norms_with_their_own_activation(timm):
    torch.manual_seed(0)
    x = torch.randn(8, 3, 64, 64)
    model = timm.create_model("efficientnet_lite0", num_classes=5)
    with torch.no_grad():
        for _ in range(30):
            model.train()(x)
    check(model.eval().double(), x.double())  # in float32 rounding alone would be 1e-4


def test_a_forward_that_writes_into_its_input_is_folded_all_the_same():
    class Halves(nn.Sequential):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    net = trained(Halves(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), X.clone())
    before = net(X.clone()).detach()
    assert hs.fold_batch_norms(net, X).layers == {"1": "0"}
    torch.testing.assert_close(net(X.clone()).detach(), before)
