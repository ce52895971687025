import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from headstart.bench.tasks.augment import AUGMENTATIONS, Draws, augment, draw


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_augmentation_images_are_as_they_are():
    images = torch.arange(2 * 16).reshape(2, 1, 4, 4)
    assert augment(images, draw((), 2, 15.0, seeded())) is images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_and_crop_equal_doing_it_image_by_image(dtype):
    images = torch.randint(0, 255, (50, 3, 7, 9), generator=seeded()).to(dtype)
    draws = draw(("crop", "flip"), 50, 15.0, seeded(5))
    done = augment(images, draws)
    assert done.dtype == dtype
    assert {True, False} == set(draws.mirrored.tolist())
    assert set(draws.shifts.unique().tolist()) == set(range(-4, 5))
    for i, image in enumerate(images):
        padded = torch.zeros(3, 15, 17, dtype=dtype)
        padded[:, 4:11, 4:13] = image.flip(2) if draws.mirrored[i] else image
        top, left = (4 + draws.shifts[:, i]).tolist()
        assert torch.equal(done[i], padded[:, top : top + 7, left : left + 9])


def test_turns_equal_scipys():
    images = torch.randint(1, 255, (20, 1, 12, 17), generator=seeded()).float()
    draws = draw(("rotate",), 20, 40.0, seeded(3))
    angles = torch.atan2(draws.turns[1], draws.turns[0])
    assert angles.abs().max() <= math.radians(40) + 1e-6
    done = augment(images, draws)
    middle = np.array([(12 - 1) / 2, (17 - 1) / 2])
    for image, turned, angle in zip(images, done, angles.tolist(), strict=True):
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[cos, -sin], [sin, cos]])  # scipy maps places of the output to places of the input
        # Order 0 is scipy's nearest neighbour; "grid-constant" fills exactly what lies outside of the image's pixels.
        expected = ndimage.affine_transform(
            image[0].numpy(), matrix, offset=middle - matrix @ middle, order=0, mode="grid-constant", cval=0
        )
        assert np.mean(expected == turned[0].numpy()) > 0.99  # ties of rounding may fall to either side


def test_a_quarter_turn_is_exact():
    images = torch.rand(3, 2, 8, 8)
    turned = augment(images, Draws(turns=torch.tensor([[0.0], [1.0]]).expand(2, 3)))
    assert torch.equal(turned, torch.rot90(images, -1, (2, 3)))  # clockwise


def test_mirror_comes_first_then_turn_then_shift():
    images = torch.rand(30, 1, 10, 10)
    draws = draw(AUGMENTATIONS, 30, 15.0, seeded(1))
    one_by_one = augment(images, Draws(mirrored=draws.mirrored))
    one_by_one = augment(one_by_one, Draws(turns=draws.turns))
    one_by_one = augment(one_by_one, Draws(shifts=draws.shifts))
    together = augment(images, draws)
    # What a turn loses outside of the image a shift cannot bring back, in one go it can.
    lost = (one_by_one == 0) & (together != 0)
    assert torch.equal(together[~lost], one_by_one[~lost])
    assert lost.float().mean() < 0.05


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.lists(st.sampled_from(AUGMENTATIONS), unique=True))
def test_every_value_comes_from_its_own_image_and_channel(height, width, batch, names):
    images = torch.arange(1, batch * 2 + 1).reshape(batch, 2, 1, 1).expand(batch, 2, height, width).contiguous()
    done = augment(images, draw(names, batch, 180.0, seeded(height)))
    assert done.shape == images.shape
    assert ((done == images) | (done == 0)).all()


def test_the_parts_of_a_batch_get_what_the_whole_gets():
    images = torch.rand(12, 3, 9, 9)
    draws = draw(AUGMENTATIONS, 12, 15.0, seeded())
    whole = augment(images, draws)
    parts = [augment(images[own], draws.part(own)) for own in (slice(0, 6), slice(6, 12))]
    assert torch.equal(torch.cat(parts), whole)


def test_an_augmentations_draws_do_not_depend_on_the_names_order():
    one, other = (draw(names, 9, 15.0, seeded()) for names in (AUGMENTATIONS, AUGMENTATIONS[::-1]))
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
