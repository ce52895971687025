import pytest
import torch

from headstart.bench.tasks.batches import DeviceTask, data_order, steps_per_epoch
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


def test_imagenets_statistics_raw_values_and_another_normalization_of_the_test_split(colour_task):
    images = colour_task.test.images.float()
    plain = DeviceTask(colour_task, "cpu", "contiguous", "none", "imagenet")
    assert torch.equal(plain.normalize(colour_task.train.images), colour_task.train.images.float())
    assert plain.train.images.dtype == torch.uint8
    expected = (images / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    seen = torch.cat([batch for batch, _ in plain.batches(plain.test, 7)])
    assert torch.allclose(seen, expected, atol=1e-5)
    validation = torch.cat([batch for batch, _ in plain.batches(plain.validation, 7)])
    assert torch.equal(validation, colour_task.validation.images.float())


def test_imagenets_statistics_are_for_three_channels(task):
    with pytest.raises(DataError, match="1 channels"):
        DeviceTask(task, "cpu", "contiguous", "imagenet")


def test_an_epoch_counts_whole_batches():
    assert [steps_per_epoch(23, size) for size in (1, 5, 23)] == [23, 4, 1]
