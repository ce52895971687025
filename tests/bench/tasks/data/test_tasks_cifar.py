import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.bench.tasks.data import catalogue, pairs, unpickle
from headstart.bench.tasks.loading import load_task
from headstart.errors import DataError, HeadstartError


def batch(seed, count, classes, *, fine="labels", bytes_keys=False, **changes):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).tolist()
    values = {"data": rng.integers(0, 256, (count, 3072), np.uint8), fine: labels}
    if fine == "fine_labels":
        values["coarse_labels"] = [label // 5 for label in labels]
    values = {key: value for key, value in {**values, **changes}.items() if value is not None}
    return {key.encode(): value for key, value in values.items()} if bytes_keys else values


def cifar100_files(protocol=2, **changes):
    return {
        "cifar-100-python/train": pickle.dumps(batch(0, 300, 100, fine="fine_labels", **changes), protocol),
        "cifar-100-python/test": pickle.dumps(batch(1, 100, 100, fine="fine_labels"), protocol),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("bytes_keys", [False, True])
def test_cifar100_batches_become_a_task(root, publish, protocol, bytes_keys):
    for name, content in cifar100_files(protocol, bytes_keys=bytes_keys).items():
        publish(name, content)
    task = load_task("cifar100", root=root)
    assert task.describe() == "cifar100: 100 classes, 3×32×32, 200 train / 100 validation / 100 test"
    expected = batch(1, 100, 100)["data"].reshape(-1, 3, 32, 32)
    assert torch.equal(task.test.images, torch.from_numpy(expected))
    coarse = load_task("cifar100:coarse", root=root)
    assert coarse.classes == 20
    assert torch.equal(coarse.test.labels, task.test.labels // 5)


def test_cifar10_batches_become_a_task(root, publish):
    for i in range(1, 6):
        publish(f"cifar-10-batches-py/data_batch_{i}", pickle.dumps(batch(i, 20, 10), 2))
    publish("cifar-10-batches-py/test_batch", pickle.dumps(batch(9, 20, 10), 2))
    task = load_task("cifar10", root=root)
    assert task.describe() == "cifar10: 10 classes, 3×32×32, 90 train / 10 validation / 20 test"
    with pytest.raises(HeadstartError, match=r"option of 'cifar10'.*'coarse'"):
        load_task("cifar10:coarse", root=root)


def test_the_array_folder_gives_the_same_task_as_the_batches(root, publish):
    for name, content in cifar100_files().items():
        publish(name, content)
    before = load_task("cifar100", root=root).fingerprint()
    for path in (root / "cifar-100-python").iterdir():
        path.unlink()
    (root / "cifar100").mkdir()
    for part, seed, count in (("train", 0, 300), ("test", 1, 100)):
        values = batch(seed, count, 100, fine="fine_labels")
        images = values["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.save(root / "cifar100" / f"{part}-images.npy", images)
        np.save(root / "cifar100" / f"{part}-labels.npy", np.array(values["fine_labels"]))
        np.save(root / "cifar100" / f"{part}-coarse.npy", np.array(values["coarse_labels"], np.uint8))
    assert load_task("cifar100", root=root).fingerprint() == before
    np.save(root / "cifar100" / "train-labels.npy", np.array([os.getcwd] * 300, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"not a readable \.npy"):
        load_task("cifar100", root=root)


def tar_of(contents, extra=None):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if extra is not None:
            archive.addfile(extra)
    return file.getvalue()


def test_the_archive_is_read_without_unpacking(root, publish):
    contents = cifar100_files()
    for name, content in contents.items():
        publish(name, content).unlink()
    publish("cifar-100-python.tar.gz", tar_of(contents))
    assert load_task("cifar100", root=root).classes == 100
    assert sorted(p.name for p in root.rglob("*") if p.is_file()) == ["cifar-100-python.tar.gz"]


@pytest.mark.parametrize("kind", ["link", "hard link", "parent", "absolute", "device"])
def test_links_and_paths_out_of_an_archive_are_refused(root, publish, kind):
    contents = cifar100_files()
    for name, content in contents.items():
        publish(name, content).unlink()
    member = tarfile.TarInfo({"parent": "cifar-100-python/../../evil", "absolute": "/evil"}.get(kind, "evil"))
    member.type = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.get(
        kind, tarfile.REGTYPE
    )
    member.linkname = "/etc/passwd"
    publish("cifar-100-python.tar.gz", tar_of(contents, member))
    with pytest.raises(DataError, match="evil', a link or a path out"):
        load_task("cifar100", root=root)


def test_a_wrong_batch_within_a_published_archive_is_refused(root, publish):
    contents = cifar100_files()
    for name, content in contents.items():
        publish(name, content).unlink()
    publish("cifar-100-python.tar.gz", tar_of({**contents, "cifar-100-python/test": b"other"}))
    with pytest.raises(DataError, match="test' is not the published file"):
        load_task("cifar100", root=root)
    publish("cifar-100-python.tar.gz", tar_of({"cifar-100-python/train": contents["cifar-100-python/train"]}))
    with pytest.raises(DataError, match="lacks cifar-100-python/test"):
        load_task("cifar100", root=root)
    publish("cifar-100-python.tar.gz", tar_of(contents)[:100_000])
    with pytest.raises(DataError, match="cannot be unpacked"):
        load_task("cifar100", root=root)


class Payload:
    """Creates a file when it is unpickled the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_malicious_pickle_is_never_unpickled(root, publish, tmp_path):
    witness = tmp_path / "executed"
    evil = pickle.dumps({"data": Payload(witness)}, 2)
    pickle.loads(evil)
    assert witness.exists()  # the payload works
    witness.unlink()
    for name, content in cifar100_files().items():
        path = publish(name, content)
    path.write_bytes(evil)
    with pytest.raises(DataError, match=r"not the published file.*it was not opened"):
        load_task("cifar100", root=root)
    publish("cifar-100-python/test", evil)  # even a payload that someone published
    with pytest.raises(DataError, match="refused while it was unpickled"):
        load_task("cifar100", root=root)
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'hex'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"",
        pickle.dumps({"a": 1})[:-1],
        pickle.dumps([1]),
    ],
)
def test_the_unpickler_makes_nothing_but_plain_values(tmp_path, content):
    with pytest.raises(DataError):
        unpickle.plain(content, tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": np.zeros((300, 3071), np.uint8)}, "shape"),
        ({"data": np.zeros((300, 3072))}, "type float64"),
        ({"data": np.zeros((299, 3072), np.uint8)}, "300 labels for images"),
        ({"data": None}, "lacks data"),
        ({"coarse_labels": None}, "lacks coarse_labels"),
        ({"fine_labels": [100] * 300}, "not between 0 and 99"),
        ({"coarse_labels": list(np.arange(300) % 7)}, "type"),
        ({"coarse_labels": (np.arange(300) % 7).tolist()}, "two superclasses"),
        ({"coarse_labels": [20] * 300}, "do not fit"),
    ],
)
def test_batches_that_do_not_fit_are_refused(root, publish, changes, match):
    for name, content in cifar100_files(**changes).items():
        publish(name, content)
    if match == "type":
        match = "refused|type"
    with pytest.raises(DataError, match=match):
        load_task("cifar100", root=root)


def test_a_folder_may_be_a_link_but_nothing_in_it_leads_out(root, publish, tmp_path):
    for name, content in cifar100_files().items():
        publish(name, content)
    (root / "cifar-100-python").rename(tmp_path / "disk")
    (root / "cifar-100-python").symlink_to(tmp_path / "disk")
    assert load_task("cifar100", root=root).classes == 100
    (tmp_path / "disk" / "test").rename(tmp_path / "outside")
    (tmp_path / "disk" / "test").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leads out of"):
        load_task("cifar100", root=root)


def test_pairs_are_those_of_the_published_study():
    expected = "(10,11) (10,13) (10,16) (10,17) (10,18) (11,18) (12,18) (13,18) (15,18) (16,19)"
    assert " ".join(f"({a},{b})" for a, b in pairs.published_evaluation()) == expected


def test_random_pairs_are_disjoint_and_named_by_their_seed():
    drawn = [pairs.disjoint(seed) for seed in range(20)]
    assert all(sorted(i for pair in found for i in pair) == list(range(20)) for found in drawn)
    assert pairs.disjoint(3) == drawn[3]
    assert len({tuple(found) for found in drawn}) == 20


def test_a_pair_has_the_ten_classes_of_its_superclasses(root, publish):
    for name, content in cifar100_files().items():
        publish(name, content)
    task = load_task("cifar100-pairs:10,13", root=root)
    assert task.describe() == "cifar100-pairs:10,13: 10 classes, 3×32×32, 20 train / 10 validation / 10 test"
    whole = load_task("cifar100", root=root)
    wanted = [*range(50, 55), *range(65, 70)]
    rows = [i for i, label in enumerate(whole.test.labels.tolist()) if label in wanted]
    assert torch.equal(task.test.images, whole.test.images[rows])
    assert [wanted[label] for label in task.test.labels.tolist()] == whole.test.labels[rows].tolist()
    for same in ("13,10", "published=1"):
        assert load_task(f"cifar100-pairs:{same}", root=root).fingerprint() == task.fingerprint()
    drawn = load_task("cifar100-pairs:random=5,pair=2", root=root)
    first, second = pairs.disjoint(5)[2]
    other = load_task(f"cifar100-pairs:{first},{second}", root=root)
    assert drawn.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("text", ["", ":10", ":10,10", ":10,20", ":published=10", ":random=1", ":10,11,published=0"])
def test_a_pair_that_is_not_named_is_an_error(root, text):
    with pytest.raises(HeadstartError, match=r"does not say which two.*cifar100-pairs:10,13"):
        load_task(f"cifar100-pairs{text}", root=root)


def test_every_data_set_that_downloads_is_known_to_the_catalogue():
    known = {name for name, entry in catalogue.DATASETS.items() if entry.downloads}
    assert known == {"mnist", "fashion-mnist", "cifar10", "cifar100", "cifar100-pairs", "svhn"}


def test_the_real_cifar100(real_data):
    root = real_data("cifar100")
    task = load_task("cifar100", root=root)
    assert task.describe() == "cifar100: 100 classes, 3×32×32, 45,000 train / 5,000 validation / 10,000 test"
    stored = np.load(root / "cifar100" / "train-images.npy", mmap_mode="r")
    images = torch.cat([task.train.images, task.validation.images]).numpy()
    counts = [np.bincount(images[:, c].ravel(), minlength=256) / (50_000 * 1024) for c in range(3)]
    levels = np.arange(256) / 255
    means = [float(count @ levels) for count in counts]
    stds = [float(count @ levels**2 - mean**2) ** 0.5 for count, mean in zip(counts, means, strict=True)]
    assert means == pytest.approx([0.5071, 0.4865, 0.4409], abs=1e-4)
    assert stds == pytest.approx([0.2673, 0.2564, 0.2762], abs=1e-4)
    assert task.train.labels.bincount().tolist() == [450] * 100
    assert task.test.labels.bincount().tolist() == [100] * 100
    assert stored.shape == (50_000, 32, 32, 3)
    small = load_task("cifar100:coarse,train=10000", root=root)
    assert small.train.labels.bincount().tolist() == [500] * 20
    assert load_task("cifar100-pairs:published=0", root=root).test.labels.bincount().tolist() == [100] * 10
