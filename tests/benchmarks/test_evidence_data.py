"""The two sides of the evidence share no image and no class, and judged images are given to marked runs alone."""

import itertools

import numpy as np
import pytest

from headstart.bench import load_task
from headstart.errors import DataError, HeadstartError


@pytest.fixture
def cifar(tmp_path):
    """A folder with a small CIFAR-100: 20 training and 5 test images of each class, all different."""
    folder = tmp_path / "sets" / "cifar100"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, each in (("train", 20), ("test", 5)):
        labels = np.repeat(np.arange(100), each)
        np.save(folder / f"{part}-images.npy", draw.integers(0, 256, (len(labels), 32, 32, 3), np.uint8))
        np.save(folder / f"{part}-labels.npy", labels)
        np.save(folder / f"{part}-coarse.npy", labels % 20)
    return folder.parent


@pytest.fixture
def cifar_alone(monkeypatch):
    from evidence import data

    alone = {side: {"cifar": sources["cifar"]} for side, sources in data.SIDES.items() if "cifar" in sources}
    monkeypatch.setattr(data, "SIDES", alone)


def everything(images):
    from evidence import data

    return [data.hashes(pixels) for pixels, _ in images.parts.values()]


def test_the_sides_name_other_data_or_other_classes():
    from evidence.data import DEVELOPMENT, JUDGING, SIDES

    assert SIDES[DEVELOPMENT].keys() == SIDES[JUDGING].keys()
    for ours, theirs in itertools.product(SIDES[DEVELOPMENT].values(), SIDES[JUDGING].values()):
        if ours.dataset == theirs.dataset:
            assert ours.coarse == theirs.coarse
            assert not set(ours.groups) & set(theirs.groups)
        assert ours.test == "a part of the training images"
        assert theirs.test == "official test images"


def test_no_image_and_no_class_is_on_both_sides_or_in_two_parts(cifar):
    from evidence import data

    found = {side: data.read(side, "cifar", cifar) for side in (data.DEVELOPMENT, data.JUDGING)}
    assert not set(found["development"].classes) & set(found["judging"].classes)
    assert [len(each.classes) for each in found.values()] == [50, 50]
    parts = [part for images in found.values() for part in everything(images)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    official = np.load(cifar / "cifar100" / "test-images.npy").transpose(0, 3, 1, 2)
    assert everything(found["judging"])[2] <= data.hashes(official)
    assert not set.union(*everything(found["development"])) & data.hashes(official)


@pytest.mark.slow  # hashes 200,000 images, half a minute
def test_the_real_sides_share_no_image(real_data):
    from evidence import data

    for name in ("cifar100", "mnist", "fashion-mnist", "tiny-imagenet"):
        root = real_data(name)
    sides = []
    for side in (data.DEVELOPMENT, data.JUDGING):
        read = [data.read(side, name, root) for name in data.SIDES[side]]
        sides.append(set.union(*(part for images in read for part in everything(images))))
    assert not sides[0] & sides[1]


@pytest.mark.usefixtures("cifar_alone")
def test_judged_images_are_refused_to_a_run_that_is_not_marked(cifar, tmp_path):
    from evidence import data

    packs = tmp_path / "packs"
    with pytest.raises(HeadstartError, match=r"asks for judged images.*--open-judged-data"):
        data.task(data.JUDGING, "cifar", 100, cifar, packs)
    data.task(data.JUDGING, "cifar", 100, cifar, packs, open_judged=True)
    with pytest.raises(HeadstartError, match="asks for judged images"):  # also where they lie open already
        data.task(data.JUDGING, "cifar", 100, cifar, packs)


@pytest.mark.usefixtures("cifar_alone")
def test_a_pack_serves_where_the_data_are_not(cifar, tmp_path):
    from evidence import data

    packs = tmp_path / "packs"
    (path,) = data.pack(data.DEVELOPMENT, cifar, packs)
    task = load_task(data.task(data.DEVELOPMENT, "cifar", 200, tmp_path / "nowhere", packs))
    assert task.describe().endswith("50 classes, 3×32×32, 200 train / 150 validation / 250 test")
    read = data.read(data.DEVELOPMENT, "cifar", cifar)
    assert np.array_equal(task.test.images.numpy(), read.parts["test"][0])
    assert np.array_equal(task.test.labels.numpy(), read.parts["test"][1])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is no pack"):
        data.unpack(path)
