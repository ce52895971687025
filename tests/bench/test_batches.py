import pytest
import torch

from headstart.bench.batches import DeviceTask, augment, data_order
from headstart.errors import DataError


def test_an_epoch_shows_no_image_twice_and_the_next_is_in_another_order():
    batches = list(data_order(23, 5, 8, seed=3))
    first, second = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert len(first.unique()) == len(second.unique()) == 20
    assert not torch.equal(first, second)


def test_a_longer_budget_begins_like_a_shorter_one():
    short, long = list(data_order(40, 8, 6, 1)), list(data_order(40, 8, 30, 1))
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))


@pytest.mark.parametrize("batch", [0, 41])
def test_a_batch_larger_than_the_split_is_an_error(batch):
    with pytest.raises(DataError, match="cannot be drawn from 40"):
        next(data_order(40, batch, 1, 0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_equals_doing_it_image_by_image(dtype):
    images = torch.randint(0, 255, (50, 3, 7, 9), generator=torch.Generator().manual_seed(0)).to(dtype)
    done = augment(images, ("crop", "flip"), torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    mirrored = torch.rand(50, generator=draw) < 0.5
    shifts = torch.randint(0, 9, (2, 50), generator=draw)
    for i, image in enumerate(images):
        expected = torch.zeros(3, 15, 17, dtype=dtype)
        expected[:, 4:11, 4:13] = image.flip(2) if mirrored[i] else image
        top, left = shifts[:, i].tolist()
        assert torch.equal(done[i], expected[:, top : top + 7, left : left + 9])


def test_without_augmentation_images_are_as_they_are():
    images = torch.arange(2 * 16).reshape(2, 1, 4, 4)
    assert augment(images, (), torch.Generator()) is images


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_training_images_come_out_with_mean_zero_and_deviation_one(colour_task, memory_format):
    data = DeviceTask(colour_task, "cpu", memory_format)
    x = data.normalize(data.train.images)
    assert data.train.images.dtype == torch.uint8
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert x.std((0, 2, 3), correction=0).sub(1).abs().max() < 1e-5
    assert x.is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")


def test_a_calibration_batch_is_of_training_images_alone(colour_task):
    data = DeviceTask(colour_task, "cpu", "contiguous")
    images, labels = data.calibration_batch(1000, seed=2)
    assert len(images) == len(labels) == len(data.train)
    every = {image.numpy().tobytes() for image in data.normalize(data.train.images)}
    assert {image.numpy().tobytes() for image in images} == every
    assert torch.equal(data.calibration_batch(8, 2)[0], images[:8])
