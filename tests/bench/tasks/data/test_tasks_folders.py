import sys

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.bench.tasks.loading import load_task
from headstart.errors import DataError, HeadstartError, MissingExtraError


def picture(path, value, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value, 0, 255 - value) if mode == "RGB" else value).save(path)


def fill(folder, counts=None, **options):
    for i, (name, count) in enumerate((counts or {"cat": 10, "dog": 10}).items()):
        for j in range(count):
            picture(folder / name / f"{j}.png", 10 * i + j, **options)


def test_a_folder_by_class_is_split(tmp_path):
    fill(tmp_path / "pets")
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / ".hidden").mkdir()
    picture(tmp_path / "pets" / ".hidden" / "x.png", 1)
    task = load_task(f"folder:{tmp_path / 'pets'}")
    assert task.describe().endswith(": 2 classes, 3×6×8, 14 train / 2 validation / 4 test")
    seen = torch.cat([s.images[:, 0, 0, 0] for s in (task.train, task.validation, task.test)])
    labels = torch.cat([s.labels for s in (task.train, task.validation, task.test)])
    assert sorted(seen.tolist()) == list(range(20))
    assert torch.equal(labels, (seen >= 10).long())


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "valid", "test"), ("train", "test")])
def test_given_splits_are_kept(tmp_path, names):
    for i, name in enumerate(names):
        fill(tmp_path / "pets" / name, {"cat": 10 - i, "dog": 10 - i})
    task = load_task(f"folder:{tmp_path / 'pets'}")
    sizes = (len(task.train), len(task.validation), len(task.test))
    assert sizes == ((20, 18, 16) if len(names) == 3 else (18, 2, 18))


def test_a_val_folder_without_test_is_the_test_set(tmp_path):
    fill(tmp_path / "pets" / "train")
    fill(tmp_path / "pets" / "val", {"cat": 3, "dog": 3})
    task = load_task(f"folder:{tmp_path / 'pets'}")
    assert (len(task.train), len(task.validation), len(task.test)) == (18, 2, 6)


def test_gray_images_have_one_channel_unless_one_is_in_colour(tmp_path):
    fill(tmp_path / "pets", mode="L")
    spec = f"folder:{tmp_path / 'pets'}"
    assert load_task(spec).channels == 1
    picture(tmp_path / "pets" / "cat" / "colour.png", 9)
    assert load_task(spec).channels == 3


def test_images_of_many_sizes_need_one_size(tmp_path):
    fill(tmp_path / "pets")
    picture(tmp_path / "pets" / "cat" / "big.png", 200, (50, 30))
    spec = f"folder:{tmp_path / 'pets'}"
    with pytest.raises(DataError, match=r"different sizes: 8×6, 50×30.*size=64"):
        load_task(spec)
    assert load_task(f"{spec}:size=5,test=4").describe().endswith("3×5×5, 15 train / 2 validation / 4 test")
    with pytest.raises(HeadstartError, match="between 1 and 4096"):
        load_task(f"{spec}:size=0")


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda f: (f / "bird").mkdir(), r"'bird' holds no image"),
        (lambda f: picture(f / "loose.png", 1), r"'loose.png' is in no class"),
        (lambda f: [p.unlink() for p in (f / "cat").iterdir()], r"'cat' holds no image"),
        (lambda f: (f / "cat" / "3.png").write_bytes(b"no image"), r"3.png' is not a readable image"),
        (lambda f: (f / "cat" / "3.png").write_bytes((f / "cat" / "3.png").read_bytes()[:-30]), r"3.png' is"),
        (lambda f: f.rename(f.parent / "gone"), "no folder"),
    ],
)
def test_folders_that_cannot_serve_get_one_error(tmp_path, break_it, match):
    fill(tmp_path / "pets")
    break_it(tmp_path / "pets")
    with pytest.raises(DataError, match=match):
        load_task(f"folder:{tmp_path / 'pets'}")


def test_a_truncated_jpeg_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ("a", "b"):
        for j in range(10):
            path = tmp_path / "pets" / name / f"{j}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"9\.jpg' is damaged"):
        load_task(f"folder:{tmp_path / 'pets'}")
    assert not list((tmp_path / "cache").iterdir())  # nothing half-made is left


def test_a_test_class_that_training_does_not_have_is_refused(tmp_path):
    fill(tmp_path / "pets" / "train")
    fill(tmp_path / "pets" / "test", {"cat": 2, "fox": 2})
    with pytest.raises(DataError, match="fox' is a class that the training"):
        load_task(f"folder:{tmp_path / 'pets'}")


def test_links_out_of_the_folder_are_refused(tmp_path):
    fill(tmp_path / "pets")
    picture(tmp_path / "private.png", 3)
    link = tmp_path / "pets" / "cat" / "link.png"
    link.symlink_to(tmp_path / "private.png")
    with pytest.raises(DataError, match=r"link\.png' leads out of"):
        load_task(f"folder:{tmp_path / 'pets'}")
    link.unlink()
    (tmp_path / "pets" / "cat" / "more").symlink_to(tmp_path)
    with pytest.raises(DataError, match="more' is a link to a folder"):
        load_task(f"folder:{tmp_path / 'pets'}")


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    fill(tmp_path / "pets")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pillow.*headstart\[bench\]"):
        load_task(f"folder:{tmp_path / 'pets'}")


def write_tiny(root):
    folder = root / "tiny-imagenet-200"
    for i, name in enumerate(("n02", "n01")):
        for j in range(10):
            path = folder / "train" / name / "images" / f"{name}_{j}.JPEG"
            picture(path, 100 * i, (64, 64), mode="L" if j == 3 else "RGB")
        for j in range(2):
            picture(folder / "val" / "images" / f"val_{2 * i + j}.JPEG", 100 * i, (64, 64))
    (folder / "wnids.txt").write_text("n02\nn01\n")
    lines = [f"val_{i}.JPEG\t{'n02' if i < 2 else 'n01'}\t0\t0\t63\t63\n" for i in range(4)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet_in_its_original_folders(root):
    write_tiny(root)
    task = load_task("tiny-imagenet", root=root)
    assert task.describe() == "tiny-imagenet: 2 classes, 3×64×64, 18 train / 2 validation / 4 test"
    assert task.test.labels.tolist() == [1, 1, 0, 0]
    assert task.test.images[:, 0, 5, 5].tolist() == pytest.approx([0, 0, 100, 100], abs=3)
    assert load_task("tiny-imagenet:size=32", root=root).image_size == (32, 32)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("val/val_annotations.txt", "../../secret.JPEG\tn01\t0\t0\t1\t1\n", "names no image and class"),
        ("val/val_annotations.txt", "val_0.JPEG\tn09\t0\t0\t1\t1\n", "names no image and class"),
        ("val/val_annotations.txt", "val_9.JPEG\tn01\t0\t0\t1\t1\n", r"val_9\.JPEG' is not a file"),
        ("wnids.txt", "n01\nn02\n../../n03\n", "holds no image"),
        ("wnids.txt", "n01\nn01\n", "does not list classes"),
        ("train/n01/images/n01_4.JPEG", "no image", r"n01_4\.JPEG' is not a readable image"),
    ],
)
def test_a_tiny_imagenet_that_does_not_fit_is_refused(root, name, content, match):
    (write_tiny(root) / name).write_text(content)
    with pytest.raises(DataError, match=match):
        load_task("tiny-imagenet", root=root)


def test_a_class_folder_that_links_out_of_tiny_imagenet_is_refused(root, tmp_path):
    folder = write_tiny(root) / "train" / "n01"
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=r"n01' leads out of"):
        load_task("tiny-imagenet", root=root)


def test_tiny_imagenet_that_is_not_there_says_where_it_goes(root):
    with pytest.raises(DataError, match=r"tiny-imagenet-200/\{wnids\.txt, train\}.*val_annotations\.txt.*zip"):
        load_task("tiny-imagenet", root=root)


@pytest.mark.slow  # reads 24,000 pictures
def test_the_real_tiny_imagenet(real_data):
    root = real_data("tiny-imagenet")
    task = load_task("tiny-imagenet:size=32", root=root)
    assert task.describe().endswith("200 classes, 3×32×32, 18,000 train / 2,000 validation / 4,000 test")
    assert task.train.labels.bincount().tolist() == [90] * 200
    assert task.test.labels.bincount().tolist() == [20] * 200
    mean, std = task.mean_std()
    assert mean.tolist() == pytest.approx([0.480, 0.448, 0.397], abs=0.005)  # published for all 100,000 images
    assert (std < 0.2771).all()  # averaging 2×2 pixels takes contrast
