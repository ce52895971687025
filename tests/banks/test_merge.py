import pytest
import torch

from headstart.banks import Entry, FilterBank
from headstart.errors import HeadstartError


def one(centroids, sizes, *, depth=0.5, layer="a", norm=1.0, deviation=0.0, **known):
    atoms = torch.tensor(centroids, dtype=torch.float32)[:, None].expand(-1, 3).clone()
    deviations = torch.full_like(atoms, deviation)
    return FilterBank(
        (Entry((3,), depth, False, layer, atoms, deviations, torch.tensor(sizes), 2.0, norm),),
        {"distance": "euclidean", "pool": not layer, **known},
    )


def test_side_by_side_weighted_by_filters():
    bank = FilterBank.merge(one([1, 2], [30, 10], norm=1.0), one([3], [20], norm=3.0, depth=0.8))
    (entry,) = bank.entries
    assert entry.centroids[:, 0].tolist() == [1, 3, 2]
    assert entry.sizes.tolist() == [30, 20, 10]
    assert entry.inertia == 4.0
    assert entry.norm == pytest.approx(((40 * 1 + 20 * 9) / 60) ** 0.5)
    assert entry.depth == pytest.approx((40 * 0.5 + 20 * 0.8) / 60)


def test_equal_centroids_become_one():
    bank = FilterBank.merge(one([1, 2], [30, 10], deviation=1.0), one([2, 3], [30, 5], deviation=2.0))
    (entry,) = bank.entries
    assert entry.centroids[:, 0].tolist() == [2, 1, 3]
    assert entry.sizes.tolist() == [40, 30, 5]
    assert entry.deviations[:, 0].tolist() == pytest.approx([((10 * 1 + 30 * 4) / 40) ** 0.5, 1, 2])


def test_a_bank_with_itself_weighs_twice(net):
    bank = FilterBank.from_models(net())
    twice = FilterBank.merge(bank, bank)
    for entry, double in zip(bank.entries, twice.entries, strict=True):
        assert torch.equal(double.sizes, 2 * entry.sizes)
        assert torch.equal(double.centroids.flatten(1).sort(0).values, entry.centroids.flatten(1).sort(0).values)
        assert double.norm == pytest.approx(entry.norm)
        assert torch.allclose(double.deviations.sum(0), entry.deviations.sum(0))


def test_layers_of_other_names_stand_beside_each_other(net):
    other = torch.nn.Sequential(net(1))
    bank = FilterBank.merge(FilterBank.from_models(net()), FilterBank.from_models(other))
    assert [e.layer for e in bank.entries] == ["0", "2.0", "3", "0.0", "0.2.0", "0.3"]


def test_pools_of_one_bin_go_together(net):
    parts = [FilterBank.from_models(net(seed), pool=True) for seed in range(2)]
    bank = FilterBank.merge(*parts)
    assert len(bank) == 3
    assert [len(e) for e in bank.entries] == [6, 6, 6]
    deeper = torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 3) for _ in range(9)))
    more = FilterBank.merge(bank, FilterBank.from_models(deeper, pool=True))
    # First layers together, last bins together, and the three bins between them that the small nets have not.
    assert sorted(len(e) for e in more.entries) == [3, 3, 3, 6, 9, 9]


def test_provenance_and_titles_are_kept(tmp_path):
    bank = FilterBank.merge(
        one([1], [1], title="one", licence="MIT"),
        one([2], [1], title="two", licence="BSD-2-Clause"),
        one([3], [1], title="two", licence="MIT"),
    )
    assert bank.title == "one + two"
    assert bank.provenance["licence"] == "MIT; BSD-2-Clause"
    assert [part["title"] for part in bank.provenance["merged"]] == ["one", "two", "two"]
    bank.save(tmp_path / "bank.safetensors")
    assert FilterBank.load(tmp_path / "bank.safetensors").provenance == bank.provenance
    assert "Part: one." in str(bank)
    again = FilterBank.merge(bank, one([4], [1], title="four"))
    assert again.title == "one + two + four"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (one([1], [1], distance="cosine"), "distance is 'euclidean', 'cosine'"),
        (one([1], [1], layer=""), "pool is False, True"),
        (one([1], [1], bins=4), "bins is None, 4"),
        (
            FilterBank(
                (
                    Entry(
                        (3,), 0, False, "a", torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1).long(), 0, 1, True
                    ),
                ),
                {"distance": "euclidean", "pool": False},
            ),
            "some hold slices, some whole filters",
        ),
    ],
)
def test_banks_of_other_kinds(other, message):
    with pytest.raises(HeadstartError, match=message):
        FilterBank.merge(one([1], [1]), other)


def test_nothing_to_merge():
    with pytest.raises(HeadstartError, match="no filter banks"):
        FilterBank.merge()


def test_one_bank_stays_as_it_is():
    bank = one([1, 2], [3, 4])
    assert FilterBank.merge(bank).entries == bank.entries
