"""Pictures: filters end up where and as they should, for every kernel and channel count."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

import headstart as hs

pytest.importorskip("matplotlib")

from headstart.diagnosis.plot import plot_signals
from headstart.results.filter_plot import filter_pair


def picture(axis):
    return np.ma.filled(axis.images[0].get_array(), np.nan)


def cells(canvas):
    """Distinct values of the drawn weights."""
    return np.unique(canvas[np.isfinite(canvas)])


def test_one_channel_shows_the_weights_in_place():
    before = torch.arange(4 * 9, dtype=torch.float32).reshape(4, 1, 3, 3) - 18
    after = before.clone()
    after[2] = -after[2]
    figure = filter_pair(before, after)
    old, new, _ = figure.axes
    assert np.array_equal(cells(picture(old)), np.unique(before.numpy()))
    assert np.array_equal(cells(picture(new)), np.unique(after.numpy()))
    assert (old.get_title(), new.get_title()) == ("before", "after")
    assert len(old.patches) == 0
    assert len(new.patches) == 1  # the changed filter is framed
    (frame,) = new.patches
    x, y = (int(frame.get_x() + frame.get_width() / 2), int(frame.get_y() + frame.get_height() / 2))
    assert picture(new)[y, x] == after[2, 0, 1, 1]
    low, high = old.images[0].get_clim()
    assert -low == high
    assert new.images[0].get_clim() == (low, high)
    assert "4 filters of 1×3×3; 1 changed" in figure.get_suptitle()


def test_three_channels_are_colours_around_gray():
    weight = torch.zeros(2, 3, 3, 3)
    weight[0, 0] = 1.0  # pure red
    weight[1, 2] = -1.0  # no blue
    canvas = picture(filter_pair(torch.zeros_like(weight), weight).axes[1])
    colours = {tuple(np.round(c, 2)) for c in canvas.reshape(-1, 4)}
    assert colours == {(0, 0, 0, 0), (1, 0.5, 0.5, 1), (0.5, 0.5, 0, 1)}


def test_many_channels_and_filters_are_cut_and_it_is_said():
    weight = torch.arange(70 * 6 * 9, dtype=torch.float32).reshape(70, 6, 3, 3)
    figure = filter_pair(weight, weight)
    assert np.array_equal(cells(picture(figure.axes[0])), np.unique(weight[:64, :4].numpy()))
    assert "the first 64 of 70, the first 4 of 6 channels; 0 changed" in figure.get_suptitle()


def test_three_dimensional_kernels_show_their_centre():
    weight = torch.arange(2 * 27, dtype=torch.float32).reshape(2, 1, 3, 3, 3)
    figure = filter_pair(weight, weight)
    assert np.array_equal(cells(picture(figure.axes[0])), np.unique(weight[:, :, 1].numpy()))
    assert "centre slices" in figure.get_suptitle()


def test_one_dimensional_kernels_are_lines():
    before, after = torch.randn(10, 2, 7), torch.randn(10, 2, 7)
    figure = filter_pair(before, after)
    lines = [line.get_ydata() for axis in figure.axes for line in axis.lines if len(line.get_xdata()) == 7]
    assert len(lines) == 10 * 2 * 2
    assert np.array_equal(lines[0], before[0, 0].numpy())
    assert np.array_equal(lines[1], after[0, 0].numpy())


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (3, 1, 1, 1), (5, 2, 11, 3), (8, 3, 3), (7, 3, 3, 3, 3), (1, 4, 5)])
def test_every_shape_draws_to_a_file(shape, tmp_path):
    filter_pair(torch.zeros(shape), torch.randn(shape)).savefig(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_half_precision_and_gradients():
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    assert filter_pair(weight.bfloat16(), weight.bfloat16()).axes


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (torch.zeros(4, 4), torch.zeros(4, 4), "not a convolution"),
        (torch.zeros(4, 1, 3), torch.zeros(5, 1, 3), "not a convolution"),
        (torch.zeros(4, 1, 3), torch.full((4, 1, 3), torch.nan), "NaN or infinite"),
    ],
)
def test_what_cannot_be_drawn(before, after, message):
    with pytest.raises(hs.HeadstartError, match=message):
        filter_pair(before, after)


def test_report_draws_its_filters():
    conv = nn.Conv2d(1, 8, 3)
    report = hs.initialize(conv, torch.rand(32, 1, 10, 10), "prewarm")
    assert len(report.plot_filters().axes[1].patches) == 4
    untouched = hs.initialize(nn.Linear(3, 2), method="kaiming")
    with pytest.raises(hs.HeadstartError, match="no filters"):
        untouched.plot_filters()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    diagnosis = hs.diagnose(nn.Linear(3, 2), torch.randn(16, 3))
    report = hs.initialize(nn.Conv2d(1, 8, 3), torch.rand(32, 1, 10, 10), "gabor")
    for name in ("headstart.results.filter_plot", "headstart.diagnosis.plot"):
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n == "matplotlib" or n.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (diagnosis.plot, report.plot_filters):
        with pytest.raises(hs.MissingExtraError, match=r"headstart\[plot\]"):
            draw()


def test_diagnosis_over_depth(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    diagnosis = hs.diagnose(model, torch.randn(32, 4))
    figure = plot_signals(diagnosis.title, diagnosis.rows)
    above, below = figure.axes
    assert list(above.lines[0].get_ydata()) == [r.output_std for r in diagnosis.rows]
    assert list(above.lines[1].get_ydata()) == [r.across_sample_std for r in diagnosis.rows]
    assert list(below.lines[0].get_ydata()) == [r.gradient_ratio for r in diagnosis.rows]
    assert above.get_yscale() == "log"
    for r in diagnosis.rows:
        r.gradient_ratio = None
    diagnosis.plot().savefig(tmp_path / "d.png")
    with pytest.raises(hs.HeadstartError, match="no signals"):
        hs.diagnose(model).plot()


def test_figures_have_no_window():
    assert filter_pair(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 3)).canvas.manager is None  # pyplot's have one


def test_rates_before_and_after_balance():
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(12, 12), nn.ReLU())], nn.Linear(12, 8))
    x = torch.randn(64, 12)
    before = hs.diagnose(net, x)
    hs.initialize(net, x, "balance")
    after = hs.diagnose(net, x)
    assert after.rate_spread < before.rate_spread
    figure = before.plot_rates(after)
    (axis,) = figure.axes
    points, bars = axis.containers[0].lines[0], axis.containers[0].lines[2][0]
    rates = [r.gradient_ratio for r in before.rows]
    assert list(points.get_ydata()) == rates
    for segment, row in zip(bars.get_segments(), before.rows, strict=True):
        part = min(row.rate_variation, 0.95)  # a bar to zero has no logarithm
        low, high = row.gradient_ratio * (1 - part), row.gradient_ratio * (1 + part)
        assert [segment[0][1], segment[1][1]] == pytest.approx([low, high])
    assert axis.get_yscale() == "log"
    assert f"{before.rate_spread:.3g}-fold" in axis.get_legend().get_texts()[0].get_text()
    assert len(before.plot_rates().axes[0].containers) == 1
    with pytest.raises(hs.HeadstartError, match="no gradients"):
        hs.diagnose(net).plot_rates()
