import gzip
import hashlib
import shutil
import sys

import numpy as np
import pytest
import torch

from headstart.bench.tasks.data import files
from headstart.bench.tasks.data.catalogue import DATASETS
from headstart.bench.tasks.data.download import download
from headstart.bench.tasks.loading import OWN, is_task, load_task
from headstart.bench.tasks.splits import subset
from headstart.errors import DataError, HeadstartError, MissingExtraError, UnknownNameError


@pytest.fixture
def digits(root, publish, gray):
    for file, content in gray[1].items():
        publish(f"MNIST/raw/{file}", content)
    return root


def test_splits_have_the_sizes_that_are_asked_for(digits):
    whole = load_task("mnist", root=digits)
    task = load_task("mnist:train=20,validation=10,test=13", root=digits)
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 10, 13)
    assert task.train.labels.bincount().tolist() == [2] * 10
    assert set(task.test.labels.bincount(minlength=10).tolist()) == {1, 2}
    everything = {image.numpy().tobytes() for image in whole.train.images}
    assert all(image.numpy().tobytes() in everything for image in task.train.images)
    assert torch.equal(load_task("mnist:train=20", root=digits).validation.images, whole.validation.images)


def test_a_task_may_validate_on_its_test_images(digits):
    task = load_task("mnist:validate-on-test", root=digits)
    assert torch.equal(task.validation.images, task.test.images)
    assert torch.equal(task.validation.labels, task.test.labels)
    apart = load_task("mnist", root=digits)
    assert len(task.train) == len(apart.train) + len(apart.validation)
    with pytest.raises(UnknownNameError, match="option of 'mnist5k'"):
        load_task("mnist5k:validate-on-test")


def test_a_draw_is_named_by_its_seed(digits):
    same = [load_task("mnist:train=20", seed, root=digits).fingerprint() for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


@pytest.mark.parametrize("size", [9, 51])
def test_a_split_cannot_be_larger_than_it_is_or_lack_a_class(digits, size):
    with pytest.raises(DataError, match=rf"train={size} is not possible.*50 images in 10 classes"):
        load_task(f"mnist:train={size}", root=digits)


def test_subsets_keep_shares_exactly_whatever_the_classes():
    labels = torch.cat([torch.full((count,), i) for i, count in enumerate((1, 2, 50, 47))])
    for size in (4, 5, 10, 37, 99, 100):
        chosen = subset(labels, size, 0, "t", "train")
        counts = labels[chosen].bincount(minlength=4)
        assert len(chosen.unique()) == size
        assert (counts >= 1).all()
        assert (counts - torch.tensor([1, 2, 50, 47]) * size / 100).abs().max() <= 1.5


def test_arrays_and_digits_take_sizes_too(tmp_path):
    for part, count in (("train", 40), ("test", 20)):
        np.save(tmp_path / f"{part}-images.npy", np.zeros((count, 5, 5), np.uint8))
        np.save(tmp_path / f"{part}-labels.npy", np.arange(count) % 2)
    task = load_task(f"arrays:{tmp_path}:train=8,test=6")
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 4, 6)
    assert load_task(f"arrays:{tmp_path}").fingerprint() == load_task(str(tmp_path)).fingerprint()
    with pytest.raises(DataError, match="folder:PATH"):
        load_task(f"arrays:{tmp_path / 'none'}")
    assert len(load_task("mnist5k:train=100").train) == 100


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("mnist:trian=5", UnknownNameError, "Did you mean 'train'"),
        ("mnist:coarse", UnknownNameError, "option of 'mnist'"),
        ("mnist:train=ten", HeadstartError, "not a whole number"),
        ("mnist:train=-1", HeadstartError, "not a whole number"),
        ("mnist:train=5,train=5", HeadstartError, "twice"),
        ("cifar100:coarse=maybe", HeadstartError, "neither true nor false"),
        ("cifar-100", UnknownNameError, "Did you mean 'cifar100'"),
    ],
)
def test_names_and_options_that_are_wrong_get_the_nearest(root, spec, error, match):
    with pytest.raises(error, match=match):
        load_task(spec, root=root)


def test_every_task_is_on_the_page(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "tasks.md").read_text()
    for name in (*DATASETS, *(f"{kind}:PATH" for kind in OWN), "file.py:function"):
        assert f"`{name}`" in page
    for entry in DATASETS.values():
        for option in entry.choices:
            assert f"`{option}" in page
        for layout in entry.layouts:
            for path in layout:
                assert path.split("/")[0] in page
    assert [is_task(s) for s in ("mnist", "svhn:extra", "folder:x", "folder:", "x", "x.py:load")] == [
        *(True, True, True, False, False, False)
    ]


class Fetch:
    """Stands for torchvision's downloader: copies from a folder, and notes what it was asked for."""

    def __init__(self, source):
        self.source, self.asked = source, []

    def __call__(self, url, root, filename, md5):
        self.asked.append((url, filename, md5))
        found = self.source / filename
        if "mirror-down" in url or not found.exists():
            raise RuntimeError("no such file")
        shutil.copytree(self.source, root, dirs_exist_ok=True)


@pytest.fixture
def torchvision_datasets(torchvision_models):
    from torchvision import datasets

    return datasets


def test_a_download_fetches_what_is_missing_with_the_published_checksum(
    torchvision_datasets, digits, tmp_path, monkeypatch
):
    (digits / "MNIST" / "raw").rename(tmp_path / "served")
    plain = {path.name: path.read_bytes() for path in (tmp_path / "served").iterdir()}
    for name, content in plain.items():
        packed = gzip.compress(content)
        (tmp_path / "served" / f"{name}.gz").write_bytes(packed)
        (tmp_path / "served" / name).unlink()
        monkeypatch.setitem(files.MD5, f"MNIST/raw/{name}.gz", hashlib.md5(packed).hexdigest())
    fetch = Fetch(tmp_path / "served")
    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    monkeypatch.setattr(torchvision_datasets.MNIST, "mirrors", ["mirror-down/", "mirror-up/"])
    assert load_task("mnist", root=digits, download=True).classes == 10
    assert [url for url, _, _ in fetch.asked] == [
        f"mirror-{state}/train-images-idx3-ubyte.gz" for state in ("down", "up")
    ]
    assert fetch.asked[0][2] == files.MD5["MNIST/raw/train-images-idx3-ubyte.gz"]
    monkeypatch.setattr(torchvision_datasets.MNIST, "mirrors", ["mirror-down/"])
    (digits / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz' could not be fetched: mirror-down.*by hand"):
        load_task("mnist", root=digits, download=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", ["cifar-10-python.tar.gz"]),
        ("cifar100-pairs", ["cifar-100-python.tar.gz"]),
        ("svhn", ["train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"]),
    ],
)
def test_each_set_asks_for_its_own_files(torchvision_datasets, root, monkeypatch, name, expected):
    asked = []

    def fetch(url, folder, filename, md5):
        assert url.endswith(filename)
        asked.append(filename)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    download(name, root, extra=True)
    assert asked == expected


def test_what_cannot_be_downloaded_is_said(root, monkeypatch):
    with pytest.raises(DataError, match="'tiny-imagenet' cannot be downloaded by headstart; cifar10, cifar100"):
        load_task("tiny-imagenet", root=root, download=True)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtraError, match=r"headstart\[torchvision\]"):
        load_task("cifar10", root=root, download=True)
