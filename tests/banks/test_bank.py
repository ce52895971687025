import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from headstart.banks import Entry, FilterBank
from headstart.errors import HeadstartError


def entry(kernel=(3, 3), depth=0.0, depthwise=False, layer="", k=2, channels=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atom = kernel if channels is None else (channels, *kernel)
    centroids = torch.randn(k, *atom, generator=generator)
    deviations = torch.rand(k, *atom, generator=generator)
    sizes = torch.arange(1, k + 1)
    return Entry(kernel, depth, depthwise, layer, centroids, deviations, sizes, 1.5, 0.25, channels is not None)


def same(one, other):
    fields = ("kernel", "depth", "depthwise", "layer", "inertia", "norm", "whole")
    assert [getattr(one, f) for f in fields] == [getattr(other, f) for f in fields]
    for name in ("centroids", "deviations", "sizes"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


class TestFind:
    BANK = FilterBank(
        (
            entry(depth=0.0, layer="stem"),
            entry(depth=0.5, layer="middle"),
            entry(depth=1.0, layer="end"),
            entry(depth=0.4, depthwise=True, layer="dw"),
            entry((5, 5), 0.9, layer="stem"),
            entry(depth=0.1, layer="middle", channels=4),
            entry((7,), 0.2),
        )
    )

    @pytest.mark.parametrize(
        ("asked", "index"),
        [
            (((3, 3), 0.8), 2),
            (((3, 3), 0.25), 0),  # as far from one as from the other: the first
            (((3, 3), 1.0, False, "stem"), 0),  # the name comes first
            (((5, 5), 0.0, False, "stem"), 4),  # a name alone is not enough
            (((3, 3), 0.9, True, "stem"), 3),  # nor is it for the other kind
            (((3, 3), 0.9, False, "unknown"), 2),
            (((3, 3), 0.9, False, None, 4), 5),
            (([3, 3], 0.6), 1),
            (((7,), 1.0), 6),
        ],
    )
    def test_name_then_nearest_depth(self, asked, index):
        assert self.BANK.find(*asked) is self.BANK.entries[index]

    @pytest.mark.parametrize(
        "asked", [((2, 2), 0), ((5, 5), 0, True), ((3, 3), 0, False, None, 5), ((3,), 0), ((4, 3, 3), 0)]
    )
    def test_nothing_fits(self, asked):
        assert self.BANK.find(*asked) is None


class TestFiles:
    def test_round_trip(self, tmp_path):
        bank = FilterBank((entry(), entry((2, 3, 4), 1.0, True, "a.b", 3, 5)), {"title": "two", "seed": 3})
        bank.save(tmp_path / "bank.safetensors")
        loaded = FilterBank.load(tmp_path / "bank.safetensors")
        for one, other in zip(bank.entries, loaded.entries, strict=True):
            same(one, other)
        assert loaded.provenance == bank.provenance
        assert repr(loaded) == repr(bank)
        assert "'two', 2 entries" in repr(bank)

    def test_half_precision_rounds_and_nothing_else(self, tmp_path):
        bank = FilterBank((entry(k=50),))
        bank.save(tmp_path / "full.safetensors")
        bank.save(tmp_path / "half.safetensors", half=True)
        loaded = FilterBank.load(tmp_path / "half.safetensors").entries[0]
        assert torch.equal(loaded.centroids, bank.entries[0].centroids.half().float())
        assert torch.equal(loaded.sizes, bank.entries[0].sizes)
        assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "full.safetensors").stat().st_size

    def test_half_precision_is_refused_where_it_overflows(self, tmp_path):
        large = entry()
        bank = FilterBank((replace(large, centroids=large.centroids * 1e6),))
        with pytest.raises(HeadstartError, match="half precision"):
            bank.save(tmp_path / "bank.safetensors", half=True)
        assert list(tmp_path.iterdir()) == []

    def test_no_folder(self, tmp_path):
        with pytest.raises(HeadstartError, match="cannot be written"):
            FilterBank((entry(),)).save(tmp_path / "no" / "bank.safetensors")

    @pytest.mark.parametrize("name", ["missing.safetensors", "folder/missing"])
    def test_no_file(self, tmp_path, name):
        with pytest.raises(HeadstartError, match="There is no filter bank"):
            FilterBank.load(tmp_path / name)

    def test_unknown_name(self):
        with pytest.raises(HeadstartError, match="There is no filter bank 'cifar99-resnets'"):
            FilterBank.load("cifar99-resnets")

    def test_another_format_is_named(self, tmp_path):
        save_file({"a": torch.zeros(1)}, str(tmp_path / "x.safetensors"), metadata={"format": "headstart-bank-7"})
        with pytest.raises(HeadstartError, match="'headstart-bank-7', not 'headstart-bank-1'"):
            FilterBank.load(tmp_path / "x.safetensors")

    def test_truncated(self, tmp_path):
        path = tmp_path / "bank.safetensors"
        FilterBank((entry(),)).save(path)
        whole = path.read_bytes()
        for length in (0, 7, 100, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(HeadstartError, match="cannot be read as a filter bank"):
                FilterBank.load(path)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda t, m: t.pop("0.sizes"), "not those of 1 entries"),
            (lambda t, m: t.update({"0.more": torch.zeros(1)}), "not those of 1 entries"),
            (lambda t, m: t.update({"0.sizes": torch.tensor([1, 0])}), "cluster without filters"),
            (lambda t, m: t.update({"0.sizes": torch.tensor([1.0, 2.0])}), "int64"),
            (lambda t, m: t.update({"0.sizes": torch.tensor([1])}), "deviations and sizes"),
            (lambda t, m: t.update({"0.centroids": torch.full((2, 3, 3), torch.nan)}), "not finite"),
            (lambda t, m: t.update({"0.deviations": torch.full((2, 3, 3), -1.0)}), "negative"),
            (lambda t, m: t.update({"0.centroids": torch.zeros(2, 9)}), "not 3×3 slices"),
            (lambda t, m: t.update({"0.centroids": torch.zeros(0, 3, 3)}), "not 3×3 slices"),
            (lambda t, m: m[0].update(kernel=[1, 1]), "more than one tap"),
            (lambda t, m: m[0].update(kernel=[3.0, 3.0]), "kernel"),
            (lambda t, m: m[0].update(kernel=3), "cannot be read"),
            (lambda t, m: m[0].update(depth=1.5), "outside of 0 to 1"),
            (lambda t, m: m[0].update(depth=float("nan")), "outside of 0 to 1"),
            (lambda t, m: m[0].update(norm=-1), "negative"),
            (lambda t, m: m[0].update(norm="x"), "cannot be read"),
            (lambda t, m: m[0].update(whole=1), "wrong type"),
            (lambda t, m: m[0].update(more=1), "fields"),
            (lambda t, m: m.clear(), "not those of 0 entries"),
            (lambda t, m: m.append(7), "not those of 2 entries"),
        ],
    )
    def test_damage_is_refused(self, tmp_path, edit, message):
        path = tmp_path / "bank.safetensors"
        FilterBank((entry(),)).save(path)
        with safe_open(str(path), framework="pt") as file:
            tensors, meta = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
        rows = json.loads(meta["entries"])
        edit(tensors, rows)
        save_file(tensors, str(path), metadata={**meta, "entries": json.dumps(rows)})
        with pytest.raises(HeadstartError, match=message):
            FilterBank.load(path)

    @pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, " " * 1_000_001])
    def test_metadata_that_is_no_provenance(self, tmp_path, text):
        path = tmp_path / "bank.safetensors"
        FilterBank((entry(),)).save(path)
        with safe_open(str(path), framework="pt") as file:
            tensors, meta = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
        save_file(tensors, str(path), metadata={**meta, "provenance": text})
        with pytest.raises(HeadstartError, match=r"cannot be read|characters of metadata"):
            FilterBank.load(path)

    def test_too_much_provenance_is_not_written(self, tmp_path):
        with pytest.raises(HeadstartError, match="characters"):
            FilterBank((entry(),), {"note": "x" * 2_000_000}).save(tmp_path / "bank.safetensors")


def test_no_entries():
    with pytest.raises(HeadstartError, match="at least one"):
        FilterBank(())


def test_fingerprint_tells_clusters_apart():
    one, other = FilterBank((entry(),)), FilterBank((entry(seed=1),))
    assert one.fingerprint == FilterBank((entry(),), {"title": "elsewhere"}).fingerprint
    assert one.fingerprint != other.fingerprint
