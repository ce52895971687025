import gzip

import numpy as np
import pytest
import torch

from headstart.bench.tasks.data import files, idx
from headstart.bench.tasks.loading import load_task
from headstart.errors import DataError

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("pack", ["plain", "gz"])
def test_idx_files_become_a_task(root, publish, gray, name, pack):
    arrays, contents = gray
    for file, content in contents.items():
        base = f"{FOLDERS[name]}/raw/{file}"
        publish(base + ".gz", gzip.compress(content)) if pack == "gz" else publish(base, content)
    task = load_task(name, root=root)
    assert task.describe() == f"{name}: 10 classes, 1×5×4, 50 train / 10 validation / 20 test"
    assert torch.equal(task.test.images, torch.from_numpy(arrays["test"][0])[:, None])
    assert task.test.labels.tolist() == arrays["test"][1].tolist()
    both = torch.cat([task.train.images, task.validation.images]).numpy()
    assert sorted(i.tobytes() for i in both) == sorted(i.tobytes() for i in arrays["train"][0])


def test_a_file_with_another_checksum_is_refused_and_named(root, publish, gray):
    for file, content in gray[1].items():
        path = publish(f"MNIST/raw/{file}", content)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte' is not the published file: its md5 is .*fetch it"):
        load_task("mnist", root=root)


def test_truncated_and_long_files_are_refused(tmp_path, gray):
    content = gray[1]["train-images-idx3-ubyte"]
    for wrong in (content[:-1], content + b"\0"):
        with pytest.raises(DataError, match="bytes where its header says 1200"):
            idx.parse(wrong, tmp_path)
    for wrong in (b"", b"\0\0\x08\x03", b"\0\0\x0d" + content[3:], b"\x1f\x8b" + content):
        with pytest.raises(DataError, match="not an IDX file"):
            idx.parse(wrong, tmp_path)


def test_images_and_labels_that_do_not_belong_together_are_refused(root, publish, gray):
    contents = dict(gray[1])
    contents["train-labels-idx1-ubyte"] = contents["t10k-labels-idx1-ubyte"]
    for file, content in contents.items():
        publish(f"MNIST/raw/{file}", content)
    with pytest.raises(DataError, match="do not belong together"):
        load_task("mnist", root=root)


def test_a_damaged_archive_that_was_published_so_is_refused(root, publish, gray):
    for file, content in gray[1].items():
        publish(f"MNIST/raw/{file}.gz", gzip.compress(content)[:-6])
    with pytest.raises(DataError, match="cannot be decompressed"):
        load_task("mnist", root=root)


def test_what_is_missing_is_said_with_its_place(root, publish, gray, monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"(?s)not in '.*sets'.*MNIST/raw/\{train-images-idx3-ubyte, .*--data-root"):
        load_task("mnist", root=root)
    for file, content in list(gray[1].items())[:3]:
        publish(f"MNIST/raw/{file}", content)
    with pytest.raises(DataError, match=r"MNIST/raw/t10k-labels-idx1-ubyte is missing"):
        load_task("mnist", root=root)
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        load_task("mnist")
    monkeypatch.delenv("HEADSTART_DATA_ROOT")
    assert str(files.data_root()) == "data"


def test_published_checksums_are_torchvisions(torchvision_models):
    from torchvision import datasets

    for kind in (datasets.MNIST, datasets.FashionMNIST):
        for file, md5 in kind.resources:
            assert files.MD5[f"{kind.__name__}/raw/{file}"] == md5
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        assert files.MD5[kind.filename] == kind.tgz_md5
        for file, md5 in (*kind.train_list, *kind.test_list):
            assert files.MD5[f"{kind.base_folder}/{file}"] == md5
    for _, file, md5 in datasets.SVHN.split_list.values():
        assert files.MD5[f"svhn/{file}"] == md5


@pytest.mark.parametrize(("name", "std"), [("mnist", 0.3081), ("fashion-mnist", 0.3530)])
def test_the_real_digits_and_clothes(real_data, name, std):
    task = load_task(name, root=real_data(name))
    assert task.describe().startswith(f"{name}: 10 classes, 1×28×28, 54,00")
    pixels = torch.cat([task.train.images, task.validation.images]).double() / 255
    assert len(pixels) == 60_000
    assert float(pixels.std()) == pytest.approx(std, abs=1e-4)
    assert len(task.test) == 10_000
    labels = np.concatenate([task.train.labels, task.validation.labels])
    expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949] if name == "mnist" else [6000] * 10
    assert np.bincount(labels).tolist() == expected
