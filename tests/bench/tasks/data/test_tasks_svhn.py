import io

import numpy as np
import pytest
import torch
from scipy.io import savemat

from headstart.bench.tasks.loading import load_task
from headstart.errors import DataError


def mat(seed, count, **changes):
    rng = np.random.default_rng(seed)
    values = {
        "X": rng.integers(0, 256, (32, 32, 3, count), np.uint8),
        "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None],
    }
    file = io.BytesIO()
    savemat(file, {**values, **changes})
    return file.getvalue(), values["X"]


@pytest.mark.parametrize("folder", ["svhn/", ""])
def test_matlab_files_become_a_task(root, publish, folder):
    pixels = {}
    for i, (part, count) in enumerate((("train", 40), ("test", 20), ("extra", 30))):
        content, pixels[part] = mat(i, count)
        publish(f"{folder}{part}_32x32.mat", content, published=f"svhn/{part}_32x32.mat")
    task = load_task("svhn", root=root)
    assert task.describe() == "svhn: 10 classes, 3×32×32, 30 train / 10 validation / 20 test"
    assert torch.equal(task.test.images, torch.from_numpy(pixels["test"].transpose(3, 2, 0, 1).copy()))
    assert task.test.labels.tolist() == [*range(1, 10), 0] * 2
    more = load_task("svhn:extra", root=root)
    assert len(more.train) + len(more.validation) == 70
    assert torch.equal(more.test.images, task.test.images)


def test_without_the_extra_file_the_error_names_it(root, publish):
    for part in ("train", "test"):
        publish(f"svhn/{part}_32x32.mat", mat(0, 20)[0])
    with pytest.raises(DataError, match=r"svhn/extra_32x32\.mat is missing"):
        load_task("svhn:extra", root=root)


@pytest.mark.parametrize(
    "content",
    [
        b"no matlab",
        mat(0, 20)[0][:5000],
        mat(0, 20, y=np.zeros((20, 1)))[0],
        mat(0, 20, y=np.full((20, 1), 11, np.uint8))[0],
        mat(0, 20, y=np.ones((19, 1), np.uint8))[0],
        mat(0, 20, X=np.zeros((32, 32, 20), np.uint8))[0],
        mat(0, 20, X=np.zeros((32, 32, 3, 20)))[0],
    ],
)
def test_files_that_do_not_fit_are_refused(root, publish, content):
    publish("svhn/train_32x32.mat", content)
    publish("svhn/test_32x32.mat", mat(1, 20)[0])
    with pytest.raises(DataError, match=r"train_32x32\.mat"):
        load_task("svhn", root=root)


def test_a_wrong_checksum_is_refused(root, publish):
    publish("svhn/train_32x32.mat", mat(0, 20)[0])
    publish("svhn/test_32x32.mat", mat(1, 20)[0]).write_bytes(mat(2, 20)[0])
    with pytest.raises(DataError, match=r"test_32x32\.mat' is not the published file"):
        load_task("svhn", root=root)
