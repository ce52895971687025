import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.bench.tasks.data import downsampled
from headstart.bench.tasks.loading import load_task
from headstart.errors import DataError, UnknownNameError


def batch(seed, side, count=6):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3 * side * side), np.uint8)
    return {"data": images, "labels": (np.arange(count) % 2 * 999 + 1).tolist(), "mean": images.mean(0)}


def npz(values):
    file = io.BytesIO()
    np.savez(file, **values)
    return file.getvalue()


def write_npz(root, side, train="imagenet{}", val="imagenet{}"):
    for i in range(1, 11):
        path = root / train.format(side) / f"train_data_batch_{i}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(npz(batch(i, side)))
    path = root / val.format(side) / "val_data.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(npz(batch(0, side, 4)))
    return path


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("apart", [False, True])
def test_npz_batches_become_a_task(root, side, apart):
    write_npz(root, side, *(("Imagenet{}_train_npz", "Imagenet{}_val_npz") if apart else ()))
    task = load_task(f"imagenet{side}", root=root)
    assert task.describe() == f"imagenet{side}: 1000 classes, 3×{side}×{side}, 54 train / 6 validation / 4 test"
    assert torch.equal(task.test.images, torch.from_numpy(batch(0, side, 4)["data"]).view(4, 3, side, side))
    assert task.test.labels.tolist() == [0, 999, 0, 999]


def test_pickled_batches_need_a_published_checksum(root, publish):
    for side in (16, 32):
        for i in range(1, 11):
            publish(f"imagenet{side}/train_data_batch_{i}", pickle.dumps(batch(i, side), 2))
        path = publish(f"imagenet{side}/val_data", pickle.dumps(batch(0, side), 2))
    with pytest.raises(DataError, match=r"Pickled batches have no published checksum.*npz"):
        load_task("imagenet32", root=root)
    path = root / "imagenet16" / "val_data"
    assert load_task("imagenet16", root=root).classes == 1000
    path.write_bytes(path.read_bytes() + b".")
    with pytest.raises(DataError, match="val_data' is not the published file"):
        load_task("imagenet16", root=root)


def test_damaged_and_strange_batches_are_refused(root):
    path = write_npz(root, 16)
    whole = path.read_bytes()
    objects = {**batch(0, 16), "labels": np.array([print] * 6, dtype=object)}
    for content in (
        b"",
        whole[: len(whole) // 2],
        whole[:1000] + bytes([whole[1000] ^ 255]) + whole[1001:],
        npz(objects),
        npz(batch(0, 32)),
        npz({**batch(0, 16), "labels": [0] * 6}),
        npz({**batch(0, 16), "labels": [1] * 5}),
        npz({"data": batch(0, 16)["data"]}),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="val_data"):
            load_task("imagenet16", root=root)
    path.write_bytes(whole)
    assert load_task("imagenet16", root=root).classes == 1000
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("labels.npy", b"no array")
        file.writestr("data.npy", b"no array")
    path.write_bytes(archive.getvalue())
    with pytest.raises(DataError, match="val_data"):
        load_task("imagenet16", root=root)


def class_list(path):
    """An order of classes that differs from the sorted one everywhere: shifted by one."""
    path.write_text("".join(f"n{i:08d} {(i + 1) % 1000 + 1} name_{i}\n" for i in reversed(range(1000))))
    return path


def test_the_class_list_maps_sorted_classes_to_labels(tmp_path):
    order = downsampled.label_of_sorted_class(class_list(tmp_path / "map.txt"))
    assert order.tolist() == [*range(1, 1000), 0]
    for text in ("", "n1 1 a\nn2 2 b\n", "n1 one a\n", "n1\n"):
        (tmp_path / "map.txt").write_text(text)
        with pytest.raises(DataError, match="1000 classes"):
            downsampled.label_of_sorted_class(tmp_path / "map.txt")


@pytest.mark.parametrize("resample", ["box", "lanczos"])
def test_imagenetv2_is_the_test_set_and_val_data_the_validation(root, resample):
    write_npz(root, 16)
    folder = root / "imagenetv2-top-images-format-val"
    for i in range(1000):
        (folder / str(i)).mkdir(parents=True)
        Image.new("RGB" if i else "L", (20, 30), (i % 256, i // 256, 7) if i else 5).save(folder / str(i) / "a.png")
    spec = f"imagenet16:test-set=imagenetv2-top-images,resample={resample}"
    with pytest.raises(DataError, match=r"map_clsloc\.txt is missing"):
        load_task(spec, root=root)
    class_list(root / "imagenet16" / "map_clsloc.txt")
    task = load_task(spec, root=root)
    assert (len(task.train), len(task.validation), len(task.test)) == (60, 4, 1000)
    assert task.test.labels.tolist() == [*range(1, 1000), 0]
    assert task.test.images[300].float().mean((1, 2)).tolist() == [300 - 256, 1, 7]
    assert task.test.images[0].unique().tolist() == [5]
    (folder / "7" / "a.png").unlink()
    with pytest.raises(DataError, match=r"7' holds no image"):
        load_task(spec, root=root)
    (folder / "7").rename(folder / "seven")
    with pytest.raises(DataError, match=r"folders 0 to 999: see '7'"):
        load_task(spec, root=root)


def test_imagenetv2_alone_is_no_task(root):
    with pytest.raises(DataError, match=r"test set only.*imagenet64:test-set=imagenetv2"):
        load_task("imagenetv2", root=root)
    with pytest.raises(UnknownNameError, match="imagenetv2-top-images"):
        load_task("imagenet16:test-set=imagenetv3", root=root)
    with pytest.raises(UnknownNameError, match="lanczos"):
        load_task("imagenet16:resample=nearest", root=root)
