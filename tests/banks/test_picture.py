import sys

import numpy as np
import pytest
import torch

from headstart.banks import Entry, FilterBank
from headstart.errors import MissingExtraError

pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra plot)")


def bank(*atoms, whole=False):
    entries = []
    for index, shape in enumerate(atoms):
        centroids = torch.randn(3, *shape, generator=torch.Generator().manual_seed(index))
        kernel = shape[1:] if whole else shape
        sizes = torch.tensor([6, 3, 1])
        entries.append(Entry(kernel, 0.5, False, f"a{index}", centroids, centroids.abs(), sizes, 1.0, 1.0, whole))
    return FilterBank(tuple(entries))


def test_a_row_per_entry_and_the_weights_in_place():
    drawn = bank((3, 3), (5, 5))
    figure = drawn.plot()
    assert len(figure.axes) == 6
    for entry, axes in zip(drawn.entries, (figure.axes[:3], figure.axes[3:]), strict=True):
        for axis, centroid in zip(axes, entry.centroids, strict=True):
            picture = np.asarray(axis.images[0].get_array())
            assert np.array_equal(np.unique(picture), np.unique(centroid.numpy()))
            low, high = axis.images[0].get_clim()
            assert -low == high == entry.centroids.abs().max()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == "60%"
    assert "a0" in texts[1]


@pytest.mark.parametrize(
    ("shape", "whole"), [((7,), False), ((2, 3, 3), False), ((3, 3, 3), True), ((5, 3, 3), True), ((4, 7), True)]
)
def test_other_atoms(shape, whole, tmp_path):
    figure = bank(shape, whole=whole).plot()
    figure.savefig(tmp_path / "bank.png")
    assert (tmp_path / "bank.png").stat().st_size > 1000
    first = figure.axes[0]
    if len(shape) - whole == 1:
        assert len(first.lines) == (1 + shape[0] if whole else 2)
    else:
        assert len(first.images) == 1


def test_many_entries_are_cut_and_it_is_said():
    figure = bank(*[(3, 3)] * 30).plot()
    assert len(figure.axes) == 24 * 3
    assert "the first 24 of 30 entries" in figure.get_suptitle()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "headstart.banks.plot", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[plot\]"):
        bank((3, 3)).plot()
