"""The gallery names every method as the registry has it, and what it draws is what the methods make."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def gallery(load_tool):
    pytest.importorskip("PIL", reason="pictures need Pillow (extra bench)")
    return load_tool("gallery")


def test_the_page_says_what_the_registry_knows(gallery):
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page()


def test_pictures_are_small_and_each_is_shown(gallery):
    shown = gallery.PAGE.read_text(encoding="utf-8")
    pictures = list(gallery.PICTURES.iterdir())
    assert len(pictures) > 20
    assert [p.name for p in pictures if f"(gallery/{p.name})" not in shown or p.stat().st_size > 15_000] == []


@pytest.mark.parametrize("name", ["dirac", "whitening"])
def test_a_picture_shows_the_filters(gallery, name):
    before = gallery.build()[0].weight.detach()
    after = gallery.started(name, *gallery.photographs())
    file = gallery.Image.open(gallery.PICTURES / f"{name}.png")
    fresh, kept = (np.asarray(image, dtype=int) for image in (gallery.drawn(before, after), file))
    assert fresh.shape == kept.shape
    assert not torch.equal(before, after)
    assert np.abs(fresh - kept).max() <= 2
