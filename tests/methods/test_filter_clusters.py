"""Filter clusters: what is written is what the bank holds, in its proportions, at the size that was asked for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import headstart as hs
from headstart import rng
from headstart.banks import Entry, FilterBank
from headstart.bench.models import zoo
from headstart.methods.shared.spatial import resizing

from .banks import bank, entry

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UPS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def slices(weight: Tensor, dims: int = 2) -> Tensor:
    return weight.detach().flatten(-dims).flatten(0, -2)


def rms(weight: Tensor) -> float:
    return float(weight.detach().double().square().mean().sqrt())


def nearest(weight: Tensor, made: Entry, dims: int = 2) -> tuple[np.ndarray, float]:
    """Which centroid each slice is, up to one factor for all, and how far the worst is from it."""
    found, atoms = slices(weight, dims).double(), made.centroids.flatten(1).double()
    unit = nn.functional.normalize(found, dim=1) @ nn.functional.normalize(atoms, dim=1).T
    which = unit.argmax(1)
    factor = (found * atoms[which]).sum() / atoms[which].square().sum()
    return which.numpy(), float((found - factor * atoms[which]).abs().max() / factor)


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))


@pytest.mark.parametrize("scale", ["match", "source", "paper", 0.3])
def test_every_slice_is_a_centroid_up_to_one_factor(scale: float | str) -> None:
    made = entry(clusters=4, norm=0.07)
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3)
    own, bias = rms(conv.weight), conv.bias.detach().clone()
    report = hs.initialize(conv, method=hs.FilterClusters(bank(made), scale=scale, draw="slices"), seed=1)
    which, error = nearest(conv.weight, made)
    assert error < 1e-5
    assert set(which) == {0, 1, 2, 3}
    wanted = {"match": own, "source": 0.07, "paper": rms(made.centroids[torch.from_numpy(which)]), 0.3: 0.3}[scale]
    assert rms(conv.weight) == pytest.approx(wanted, rel=1e-5)
    if scale == "paper":
        assert torch.equal(slices(conv.weight), made.centroids.flatten(1)[torch.from_numpy(which)])
    assert torch.equal(conv.bias, bias)
    assert report.row("").notes[:1] == ["4 clusters of 3×3 slices, depth 0, hand-made"]


@pytest.mark.parametrize("clusters", [2, 5, 30])
def test_frequencies_are_the_sizes_of_the_clusters(clusters: int) -> None:
    made = entry(clusters=clusters)
    conv = nn.Conv2d(128, 128, 3)
    hs.initialize(conv, method=hs.FilterClusters(bank(made), draw="slices"), seed=3)
    which, _ = nearest(conv.weight, made)
    observed = np.bincount(which, minlength=clusters)
    expected = made.sizes.numpy() / made.sizes.sum().item() * len(which)
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    # Slices are independent: neighbours in the layer share a cluster as often as chance has it.
    pairs = np.histogram2d(which[:-1:2], which[1::2], bins=min(clusters, 5), range=[[0, clusters]] * 2)[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_a_bank_of_a_models_own_layers_serves_them_by_name() -> None:
    source = two_layers()
    for distance in ("euclidean", "even"):
        made = FilterBank.from_models([source], clusters=3, distance=distance)
        model = two_layers()
        report = hs.initialize(model, method=hs.FilterClusters(made, scale="paper", draw="slices"))
        assert report.changed == ["0", "2", "4"]
        for found in made.entries:
            weight = model.get_parameter(f"{found.layer}.weight")
            assert nearest(weight, found)[1] < 1e-5
            turned = weight.detach().flip(2, 3).roll((1, 1), (2, 3))  # w[-x mod K, -y mod K]
            assert torch.allclose(turned, weight.detach(), atol=1e-6) == (distance == "even")


def test_one_cluster_makes_all_slices_equal() -> None:
    conv = nn.Conv2d(4, 8, 3)
    hs.initialize(conv, method=hs.FilterClusters(bank(entry(clusters=1)), draw="slices"))
    assert slices(conv.weight).unique(dim=0).shape == (1, 9)


def test_gaussian_draws_have_the_deviations_of_their_cluster() -> None:
    made = entry(clusters=2, deviation=0.1)
    conv = nn.Conv2d(200, 200, 3)
    hs.initialize(conv, method=hs.FilterClusters(bank(made), draw="gaussian", scale="paper"), seed=2)
    found, atoms = slices(conv.weight), made.centroids.flatten(1)
    which = torch.cdist(found, atoms).argmin(1)
    for c in range(2):
        mine = found[which == c]
        torch.testing.assert_close(mine.mean(0), atoms[c], atol=5 * 0.15 / len(mine) ** 0.5, rtol=0)
        torch.testing.assert_close(mine.std(0), made.deviations.flatten(1)[c], rtol=0.03, atol=0)
        correlation = torch.corrcoef(mine.T) - torch.eye(9)
        assert correlation.abs().max() < 0.04


def test_gaussian_draws_without_deviations_are_copies() -> None:
    made, a, b = entry(), nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    hs.initialize(a, method=hs.FilterClusters(bank(made), draw="gaussian", scale="source"), seed=5)
    hs.initialize(b, method=hs.FilterClusters(bank(made), scale="source", draw="slices"), seed=5)
    torch.testing.assert_close(a.weight, b.weight)


def test_whole_filters_are_copied_whole_where_their_channels_fit() -> None:
    made = bank(entry(channels=3, clusters=4), entry(depth=1.0))
    model = two_layers()
    report = hs.initialize(model, method=hs.FilterClusters(made, draw="whole", scale="paper"))
    assert report.changed == ["0"]
    rows = model[0].weight.detach().flatten(1)
    atoms = made.entries[0].centroids.flatten(1)
    assert torch.cdist(rows, atoms).min(1).values.max() == 0
    assert report.row("2").notes[:1] == ["the bank has no 16×3×3 filters"]


def test_norms_per_filter_are_equal_and_those_of_the_layer() -> None:
    made = entry(clusters=6)
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 32, 3)
    own = rms(conv.weight)
    hs.initialize(conv, method=hs.FilterClusters(bank(made), norm="filter", draw="slices"))
    sizes = conv.weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(sizes, torch.full((32,), own), rtol=1e-5, atol=0)


def test_the_layers_name_or_else_its_depth_chooses_the_entry() -> None:
    first, middle, last, named = (
        entry(depth=0.1),
        entry(depth=0.6),
        entry(depth=0.9),
        entry(depth=0.0, layer="4"),
    )
    model = two_layers()
    hs.initialize(model, method=hs.FilterClusters(bank(first, middle, last), draw="slices"))
    for layer, made in (("0", first), ("2", middle), ("4", last)):
        assert nearest(model.get_parameter(f"{layer}.weight"), made)[1] < 1e-4
    hs.initialize(model, method=hs.FilterClusters(bank(first, middle, last, named), draw="slices"))
    assert nearest(model[4].weight, named)[1] < 1e-4


def test_depths_do_not_depend_on_what_is_selected_or_has_one_tap() -> None:
    made = bank(entry(depth=0.0), entry(depth=0.5), entry(depth=1.0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten())
    report = hs.initialize(model, method=hs.FilterClusters(made, draw="slices"), include=["2", "0"])
    assert report.changed == ["2"]
    assert nearest(model[2].weight, made.entries[1])[1] < 1e-4
    assert report.row("0").notes[:1] == ["a 1×1 kernel has no spatial structure"]
    assert report.row("1").notes[:1] == ["not included"]


def test_the_first_bank_that_has_the_kernel_serves_the_layer() -> None:
    one, other = entry(depth=1.0, seed=1), entry(depth=0.0, seed=2)
    five = entry((5, 5))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5))
    report = hs.initialize(
        model, method=hs.FilterClusters((bank(one), bank(other, five, title="second")), draw="slices")
    )
    assert nearest(model[0].weight, one)[1] < 1e-4
    assert nearest(model[1].weight, five)[1] < 1e-4
    assert report.row("1").notes[:1] == ["3 clusters of 5×5 slices, depth 0, second"]


def test_only_the_first_layers_on_request() -> None:
    model = two_layers()
    report = hs.initialize(model, torch.rand(4, 3, 12, 12), hs.FilterClusters(bank(entry()), layers=2))
    assert report.changed == ["0", "2"]
    assert report.row("4").notes[:1] == ["not among the first 2 convolutions"]


def test_the_first_layers_are_those_of_the_model_whatever_is_selected() -> None:
    model = two_layers()
    method = hs.FilterClusters(bank(entry()), layers=2)
    assert hs.initialize(model, method=method, exclude="0").changed == ["2"]
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    with pytest.raises(hs.HeadstartError, match="'0' is frozen; '2' is frozen"):
        hs.initialize(model, method=method)


def test_depthwise_layers_take_depthwise_slices_and_grouped_ones_dense_slices() -> None:
    dense, deep = entry(), entry(depthwise=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 16, 3, groups=8))
    report = hs.initialize(model, method=hs.FilterClusters(bank(dense, deep), draw="slices"))
    assert nearest(model[0].weight, deep)[1] < 1e-4
    assert nearest(model[1].weight, dense)[1] < 1e-4
    assert nearest(model[2].weight, deep)[1] < 1e-4
    assert report.row("0").notes[:1] == ["3 clusters of 3×3 depthwise slices, depth 0, hand-made"]
    single = nn.Conv2d(1, 8, 3)  # one input channel, but no groups
    hs.initialize(single, method=hs.FilterClusters(bank(dense, deep), draw="slices"))
    assert nearest(single.weight, dense)[1] < 1e-4


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_dimension_and_transposed_layers(dims: int, groups: int) -> None:
    kernel = (3, 2, 4)[:dims]
    made = entry(kernel)
    for kind in (CONVS, UPS):
        conv = kind[dims](4, 6, kernel, groups=groups)
        own = rms(conv.weight)
        hs.initialize(conv, method=hs.FilterClusters(bank(made)))
        assert nearest(conv.weight, made, dims)[1] < 1e-4
        assert rms(conv.weight) == pytest.approx(own, rel=1e-5)


def test_a_kernel_that_the_bank_lacks_is_left_and_said_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(5))
    report = hs.initialize(model, torch.rand(2, 3, 12, 12), hs.FilterClusters(bank(entry())))
    assert report.changed == ["1"]
    assert report.row("0").notes[:1] == ["the bank has no 7×7 slices"]
    assert report.row("3").notes[:1] == ["a linear layer has no kernel"]


def test_a_lacking_kernel_is_interpolated_from_the_nearest_on_request() -> None:
    three, five = entry((3, 3)), entry((5, 5), 1.0, deviation=0.1)
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 7)
    method = hs.FilterClusters(bank(three, five), resize=True, scale="paper", draw="slices")
    report = hs.initialize(conv, method=method)
    maps = nn.functional.interpolate(five.centroids.unsqueeze(1), (7, 7), mode="bilinear").squeeze(1).flatten(1)
    which = torch.cdist(slices(conv.weight), maps).argmin(1)
    torch.testing.assert_close(slices(conv.weight), maps[which])
    assert report.row("").notes[:1] == ["3 clusters of 5×5 slices, resized, depth 1, hand-made"]
    wide = nn.Conv2d(100, 100, 7)
    hs.initialize(wide, method=hs.FilterClusters(bank(five), draw="gaussian", resize=True, scale="paper"))
    found = slices(wide.weight)
    mine = found[torch.cdist(found, maps).argmin(1) == 2]
    matrix = resizing((5, 5), (7, 7))
    wanted = (matrix.square() @ five.deviations[2].flatten().double().square()).sqrt().float()
    torch.testing.assert_close(mine.std(0), wanted, rtol=0.08, atol=0)


@pytest.mark.parametrize(("old", "new"), [((3, 3), (5, 5)), ((3, 3), (7, 4)), ((5,), (9,)), ((2, 3, 3), (4, 3, 6))])
def test_enlarging_is_torchs_linear_interpolation(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    kernel = torch.rand(1, 1, *old, dtype=torch.float64)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(old)]
    expected = nn.functional.interpolate(kernel, new, mode=mode).flatten()
    torch.testing.assert_close(resizing(old, new) @ kernel.flatten(), expected)


def test_shrinking_averages() -> None:
    kernel = torch.rand(1, 1, 7, 7)
    expected = nn.functional.interpolate(kernel, (3, 3), mode="bilinear", antialias=True).flatten()
    torch.testing.assert_close(resizing((7, 7), (3, 3)).float() @ kernel.flatten(), expected)
    torch.testing.assert_close(resizing((4, 6), (3, 5)).sum(1), torch.ones(15, dtype=torch.float64))


def test_no_layer_that_fits_is_an_error_that_names_the_kernels() -> None:
    conv = nn.Conv2d(3, 8, 7)
    made = bank(entry(), entry((5, 5), depthwise=True), title="small ones")
    before = conv.weight.detach().clone()
    for resize in (False, True):
        method = hs.FilterClusters(made, draw="whole" if resize else "slices", resize=resize)
        with pytest.raises(hs.HeadstartError) as caught:
            hs.initialize(conv, method=method)
        for words in ("filter-clusters", "small ones", "3×3 slices", "5×5 depthwise slices", "7×7"):
            assert words in str(caught.value)
    assert torch.equal(conv.weight, before)


def test_zero_centroids_leave_no_dead_filter() -> None:
    atoms = torch.zeros(2, 3, 3)
    atoms[1] = torch.eye(3)
    made = Entry((3, 3), 0.0, True, "", atoms, torch.zeros_like(atoms), torch.tensor([1, 1]), 0.0, 0.1)
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, groups=64)
    before = conv.weight.detach().clone()
    for norm in ("layer", "filter"):
        hs.initialize(conv, method="default")
        before = conv.weight.detach().clone()
        report = hs.initialize(conv, method=hs.FilterClusters(bank(made), norm=norm))
        kept = (conv.weight == before).flatten(1).all(1)
        assert 16 < int(kept.sum()) < 48
        assert rms(conv.weight[~kept]) == pytest.approx(rms(before), rel=1e-5)
        assert any(f"{int(kept.sum())} of 64 filters of '' came out as zero" in f for f in report.findings)
    made = Entry((3, 3), 0.0, True, "", atoms[:1], torch.zeros(1, 3, 3), torch.tensor([1]), 0.0, 0.1)
    before = conv.weight.detach().clone()
    report = hs.initialize(conv, method=hs.FilterClusters(bank(made), draw="slices"))
    assert torch.equal(conv.weight, before)
    assert (report.changed, report.row("").notes[-1]) == ([], "all of its filters would be zero")


def test_a_layers_draw_depends_on_the_seed_and_its_name_alone() -> None:
    method = hs.FilterClusters(bank(entry(clusters=5), entry(depth=1.0)), draw="gaussian")
    whole, part, other = two_layers(), two_layers(), two_layers()
    hs.initialize(whole, method=method, seed=4)
    hs.initialize(part, method=method, seed=4, exclude="0")
    hs.initialize(other, method=method, seed=5)
    assert torch.equal(whole[2].weight, part[2].weight)
    assert not torch.equal(whole[2].weight, other[2].weight)
    which = torch.multinomial(
        torch.tensor([1.0, 2, 3, 4, 5]).double(), 48, True, generator=rng.generator(4, "0", "weight")
    )
    plain = two_layers()
    hs.initialize(plain, method=hs.FilterClusters(method.bank, scale="paper", draw="slices"), seed=4)
    assert torch.equal(slices(plain[0].weight), method.bank.entries[0].centroids.flatten(1)[which])  # type: ignore[union-attr]


def test_banks_are_read_from_files(tmp_path: Path) -> None:
    made = bank(entry())
    path = tmp_path / "a bank, with a comma+plus.safetensors"
    made.save(path)
    a, b, c = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    for conv, method in (
        (a, hs.FilterClusters(made, scale="paper")),
        (b, hs.FilterClusters(path, scale="paper")),
        (c, f"filter-clusters:bank='{path}',scale=paper"),
    ):
        hs.initialize(conv, method=method, seed=0)
        assert torch.equal(conv.weight, a.weight)
    first = hs.FilterClusters(path)
    made.save(tmp_path / "b.safetensors")
    assert first.identity() == hs.FilterClusters(tmp_path / "b.safetensors").identity(), "paths do not take part"
    bank(entry(seed=1)).save(path)
    assert first.identity() != hs.FilterClusters(made).identity(), "a file that was written again is read again"


def test_a_bank_that_is_not_there_is_told_before_anything_is_written() -> None:
    conv = nn.Conv2d(3, 8, 3)
    with pytest.raises(hs.HeadstartError, match="no-such-bank"):
        hs.initialize(conv, method="filter-clusters:bank=no-such-bank")


def test_the_published_scale_is_a_preset() -> None:
    assert hs.FilterClusters.paper() == hs.FilterClusters(scale="paper", draw="slices")


def test_copies_of_a_few_forms_are_told_in_dense_layers_and_the_default_has_many() -> None:
    torch.manual_seed(0)

    def net() -> nn.Sequential:
        convs = [m for width in (3, 16, 32) for m in (nn.Conv2d(width, 32 if width > 3 else 16, 3), nn.ReLU())]
        return nn.Sequential(*convs, nn.Conv2d(32, 32, 3, groups=32))

    published, default = net(), net()
    report = hs.initialize(published, method="filter-clusters:paper", seed=0)
    forms = published[4].weight.detach().flatten(2).flatten(0, 1).unique(dim=0)  # type: ignore[operator, union-attr]
    assert len(forms) <= 3
    assert "effective rank: filters" in report.row("4").notes[-1]
    assert any("draw='gaussian'" in finding for finding in report.findings)
    assert not any("rank" in note for note in report.row("6").notes), "depthwise"
    report = hs.initialize(default, method="filter-clusters", seed=0)
    assert not any("filters" in note.partition("rank")[2] for note in report.row("4").notes)
    singular = torch.linalg.svdvals(default[4].weight.detach().flatten(1)).square()  # type: ignore[operator, union-attr]
    assert float(singular.sum() ** 2 / singular.square().sum()) > 0.75 * 32 * 288 / (32 + 288 + 1)


def test_reprs_stay_short() -> None:
    many = FilterBank(tuple(entry(depth=i / 40, clusters=50) for i in range(41)), {"title": "large"})
    assert len(repr(hs.FilterClusters(many))) < 200


@pytest.mark.parametrize(
    "options",
    [
        {"bank": ()},
        {"draw": "all"},
        {"scale": "raw"},
        {"scale": 0},
        {"norm": "global"},
        {"norm": "filter", "scale": "paper"},
        {"layers": 0},
        {"layers": 1.5},
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(hs.HeadstartError, match="filter-clusters: "):
        hs.FilterClusters(**options)  # type: ignore[arg-type]


def test_a_resnet_18_takes_a_fraction_of_a_second() -> None:
    model = zoo.resolve("resnet18")(3, 10, (32, 32))
    made = bank(entry(), entry((7, 7)))
    hs.initialize(model, method=hs.FilterClusters(made))
    started = time.process_time()
    report = hs.initialize(model, method=hs.FilterClusters(made))
    assert time.process_time() - started < 3  # a fifth of a second on an idle machine
    skipped = [row.name for row in report.rows if row.action == "skipped"]
    assert [name for name in skipped if "downsample" not in name] == ["fc"]
    assert len(report.changed) == 17
