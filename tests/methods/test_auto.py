"""Auto follows the evidence by kind of network: first and depthwise layers before norms, all layers without."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs
from headstart.methods.auto import PATCHES


def deep(depth: int = 20) -> nn.Sequential:
    torch.manual_seed(0)
    convs = [m for _ in range(depth) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *convs, nn.Flatten(), nn.Linear(8 * 64, 5))


def normed(stem: nn.Module | None = None, blocks: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    first = stem or nn.Conv2d(3, 8, 3, padding=1)
    behind = [m for _ in range(blocks) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    head = [nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 5)]
    net = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), *behind, *head)
    net(torch.zeros(2, 3, 8, 8))
    return net


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def across_samples(out: Tensor) -> float:
    return float(out.detach().std(0, correction=0).mean())


def test_is_the_default_method() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    data = torch.randn(64, 4)
    hs.initialize(model, data)
    hs.initialize(twin, data, "auto")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_deep_plain_stack_tells_inputs_apart_again(x: Tensor) -> None:
    model = deep()
    assert across_samples(model[:-2](x)) < 1e-6, "the framework's start lost them"
    hs.initialize(model, x)
    assert across_samples(model[:-2](x)) > 0.1


def test_without_norms_a_network_of_convolutions_gets_the_papers_best(x: Tensor) -> None:
    model = deep(2)
    twin = copy.deepcopy(model)
    report = hs.initialize(model, x)
    hs.initialize(twin, x, hs.KrahenbuhlKMeans(patches=PATCHES))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert report.changed == ["0", "2", "4", "7"]
    assert any("-fold after, with 95 % confidence" in finding for finding in report.findings)


def test_hidden_linear_layers_behind_convolutions_keep_their_directions(x: Tensor) -> None:
    model = nn.Sequential(*deep(2)[:-1], nn.Linear(8 * 64, 12), nn.ReLU(), nn.Linear(12, 5))
    before = copy.deepcopy(model)
    hs.initialize(model, x)
    kept, head = (
        F.cosine_similarity(model[place].weight, before[place].weight)  # type: ignore[arg-type]
        for place in (-3, -1)
    )
    torch.testing.assert_close(kept, torch.ones(12))
    assert bool((head < 0.99).all())
    torch.testing.assert_close(model(x).std(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_what_cannot_be_run_backwards_is_normalized_and_not_balanced(x: Tensor) -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = deep(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).detach().argmax(1)

    model = Decides()
    report = hs.initialize(model, x)
    assert len(report.changed) == 4
    assert any(finding.startswith("auto: layers were not balanced") for finding in report.findings)
    assert across_samples(model.inner[:-2](x)) > 0.1


def test_linear_layers_keep_their_directions_and_get_deviation_1() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))
    before = copy.deepcopy(model)
    data = torch.randn(200, 12)
    assert hs.initialize(model, data).changed == ["0", "2"]
    for place in (0, 2):
        ours, old = model[place].weight, before[place].weight
        cosine = F.cosine_similarity(ours, old)  # type: ignore[arg-type]
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
        hidden = model[: place + 1](data)
        torch.testing.assert_close(hidden.std(0, correction=0), torch.ones(hidden.shape[1]), atol=1e-3, rtol=0)
    assert torch.equal(model[-1].weight, before[-1].weight)  # type: ignore[arg-type]


def test_with_norms_only_the_first_layer_is_written_as_whitening_writes_it(x: Tensor) -> None:
    model = normed()
    twin, before = copy.deepcopy(model), copy.deepcopy(model)
    report = hs.initialize(model, x, seed=3)
    hs.initialize(twin, x, "whitening", seed=3)
    assert report.changed == ["0"]
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())
    size, was = (m[0].weight.square().mean().sqrt() for m in (model, before))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(size, was)
    assert report.row("3").notes == ["norms set the scales, and nothing was found to help here"]


def separable(kernel: int = 3, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    depthwise = (nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=8), norm(8), nn.ReLU())
    pointwise = (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
    dense = (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, *depthwise, *pointwise, *dense, nn.Flatten(), nn.Linear(8 * 64, 5))


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_layers_before_norms_and_the_first_get_clusters_as_published(kernel: int, x: Tensor) -> None:
    model = separable(kernel)
    twin, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    report = hs.initialize(model, x, seed=4)
    hs.initialize(twin, x, "filter-clusters:paper", seed=4)
    assert report.changed == ["0", "3"]
    for place in (0, 3):
        assert torch.equal(model[place].weight, twin[place].weight)  # type: ignore[arg-type]
        assert any("clusters of" in note for note in report.row(str(place)).notes)
    written = ("0.weight", "3.weight")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k not in written)
    assert not torch.equal(twin[9].weight, before["9.weight"]), "the method by itself writes dense layers too"  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "written"), [(3, ["0", "3"]), (2, ["0"])])
def test_a_depthwise_layer_whose_input_is_smaller_than_its_kernel_stays(side: int, written: list[str]) -> None:
    model = separable()[:9].insert(3, nn.AdaptiveAvgPool2d((4, side)))
    place = "4"
    report = hs.initialize(model, torch.rand(32, 3, 8, 8))
    assert report.changed == [place if name == "3" else name for name in written]
    notes = (
        []
        if side == 3
        else ["its input of 4×2 is smaller than its kernel of 3×3, so that most of a filter sees padding"]
    )
    assert [note for note in report.row(place).notes if "clusters of" not in note] == notes


@pytest.mark.parametrize(
    "model",
    [separable(7), separable(norm=lambda c: nn.GroupNorm(1, c)), separable()],
    ids=["no bank has the kernel", "a norm over all channels", "weights are zero"],
)
def test_where_no_depthwise_layer_can_get_clusters_the_first_is_whitened(
    model: nn.Sequential, x: Tensor, request: pytest.FixtureRequest
) -> None:
    if "zero" in request.node.callspec.id:
        nn.init.zeros_(model[3].weight)  # type: ignore[arg-type]
    twin = copy.deepcopy(model)
    assert hs.initialize(model, x).changed == ["0"]
    hs.initialize(twin, x, "whitening")
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())


def test_trials_know_the_recipes_and_what_the_banks_hold() -> None:
    known = hs.Auto().identity()
    assert hs.Whitening().identity() in known
    assert hs.FilterClusters.paper().identity() in known


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        (nn.Conv2d(3, 8, 9, padding=4), "kernels up to 7 in 2-D"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), "no norm follows"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)), "ungrouped"),
        (separable(norm=nn.Identity)[:7], "depthwise and has no norm"),
    ],
)
def test_a_first_layer_on_which_whitening_was_not_tried_is_left(stem: nn.Module, reason: str, x: Tensor) -> None:
    model = normed(stem, blocks=3)
    before = copy.deepcopy(model.state_dict())
    report = hs.initialize(model, x)
    assert report.changed == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any(reason in note for row in report.rows for note in row.notes)
    assert any("left as it is" in finding for finding in report.findings)


def volumes(kernel: int, dims: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    conv, norm = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1], (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    blocks = [(conv(i, 8, k, padding=k // 2), norm[dims - 1](8), nn.ReLU()) for i, k in ((2, kernel), (8, 3), (8, 3))]
    return nn.Sequential(*(module for block in blocks for module in block), conv(8, 3, 1))


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_first_layer_over_volumes_is_written_as_whitening_writes_it(kernel: int) -> None:
    model, twin, data = volumes(kernel), volumes(kernel), torch.randn(4, 2, 10, 10, 10)
    assert hs.initialize(model, data, seed=3).changed == ["0"]
    hs.initialize(twin, data, "whitening", seed=3)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("kernel", "dims", "reason"), [(7, 3, "5 in 3-D"), (5, 1, "over sound alone, where it lost")])
def test_a_first_layer_over_sound_or_of_large_cubes_is_left(kernel: int, dims: int, reason: str) -> None:
    report = hs.initialize(volumes(kernel, dims), torch.randn(8, 2, *dims * [10]))
    assert report.changed == []
    assert any(reason in note for note in report.row("0").notes)


def test_a_first_layer_of_zeros_or_one_that_does_not_train_is_left(x: Tensor) -> None:
    zeros, frozen = normed(), normed()
    nn.init.zeros_(zeros[0].weight)  # type: ignore[arg-type]
    frozen[0].requires_grad_(False)
    report = hs.initialize(zeros, x)
    assert report.changed == []
    assert report.row("0").notes == ["its weights are all zero, so there is no size to match"]
    assert hs.initialize(frozen, x).changed == []


def test_images_smaller_than_the_kernel_are_no_reason_to_stop() -> None:
    net = nn.Sequential(*normed(blocks=3)[:-4], nn.Flatten(), nn.Linear(8 * 4, 16), nn.ReLU(), nn.Linear(16, 5))
    before = copy.deepcopy(net.state_dict())
    report = hs.initialize(net, torch.randn(32, 3, 2, 2))
    assert report.changed == []
    assert report.row("0").notes == ["its input has no patches to whiten"]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("build", [normed, separable])
def test_what_the_model_breaks_before_the_first_layer_is_an_error(build: Callable[[], nn.Module]) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(torch.log(x - 0.5))

    model = Breaks()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(hs.HeadstartError, match=r"(?i)nan|finite"):
        hs.initialize(model, torch.rand(32, 3, 8, 8))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_transformer_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.TransformerEncoder(block, 3, enable_nested_tensor=False), nn.Linear(16, 3)
    )
    before = copy.deepcopy(model.state_dict())
    assert hs.initialize(model, torch.randn(16, 5, 8)).changed == []
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_one_norm_does_not_make_a_deep_stack_a_network_with_norms(x: Tensor) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), *deep())
    report = hs.initialize(model, x)
    assert len(report.changed) == 22
    assert across_samples(model[:-2](x)) > 0.1


def test_one_layer_is_no_output_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(20, 3)
    data = torch.randn(64, 20)
    hs.initialize(layer, data)
    torch.testing.assert_close(layer(data).std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
