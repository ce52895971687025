"""Banks from models: grouping, pooling, counts, notes, and the numbers of each entry."""

import pytest
import torch
from torch import nn

from headstart.banks import FilterBank
from headstart.banks.distances import DISTANCES
from headstart.errors import HeadstartError


def by_name(bank):
    return {entry.layer: entry for entry in bank.entries}


class TestByLayer:
    def test_all_slices_of_all_sources(self, net):
        models = [net(seed) for seed in range(3)]
        bank = FilterBank.from_models(models, clusters=2)
        assert [e.layer for e in bank.entries] == ["0", "2.0", "3"]
        assert [int(e.sizes.sum()) for e in bank.entries] == [3 * 12, 3 * 4, 3 * 64]
        for entry in bank.entries:
            weights = torch.stack([m.get_submodule(entry.layer).weight.detach() for m in models])
            assert entry.norm == pytest.approx(float(weights.double().square().mean().sqrt()))
            mean = weights.flatten(0, 2).mean(0)
            share = entry.sizes / entry.sizes.sum()
            assert torch.allclose((entry.centroids * share[:, None, None]).sum(0), mean, atol=1e-5)

    def test_one_cluster_is_the_mean_and_its_deviation(self, net):
        model = net()
        (entry,) = FilterBank.from_models(model, clusters=1, include="3").entries
        slices = model[3].weight.detach().flatten(0, 1)
        assert torch.allclose(entry.centroids[0], slices.mean(0), atol=1e-6)
        assert torch.allclose(entry.deviations[0], slices.std(0, correction=0), atol=1e-6)
        assert entry.inertia == pytest.approx(float((slices - slices.mean(0)).square().sum()), rel=1e-5)
        assert entry.depth == 1.0  # leaving layers out moves none

    def test_clusters_by_glob_the_first_counts(self, net):
        bank = FilterBank.from_models(net(), clusters={"2.*": 2, "?": 4, "*": 1})
        assert [len(e) for e in bank.entries] == [4, 2, 4]
        assert bank.provenance["clusters"] == {"2.*": 2, "?": 4, "*": 1}

    @pytest.mark.parametrize(
        ("clusters", "message"),
        [
            (0, "neither a number of at least 1"),
            (-1, "neither a number of at least 1"),
            (True, "neither a number of at least 1"),
            ({}, "neither a number of at least 1"),
            ({"*": 0}, "neither a number of at least 1"),
            ({"0": 3}, r"says nothing about layer '2\.0'"),
            ({"conv*": 3, "*": 1}, r"no layer that matches 'conv\*'"),
        ],
    )
    def test_clusters_that_do_not_fit(self, net, clusters, message):
        with pytest.raises(HeadstartError, match=message):
            FilterBank.from_models(net(), clusters=clusters)

    @pytest.mark.parametrize(("include", "exclude"), [("2", None), (["2.0"], None), (None, ["0", "3"]), ("*0", "0")])
    def test_selection(self, net, include, exclude):
        bank = FilterBank.from_models(net(), include=include, exclude=exclude)
        assert [e.layer for e in bank.entries] == ["2.0"]

    def test_selection_that_matches_nothing(self, net):
        with pytest.raises(HeadstartError, match=r"no convolution of models\[0\] .* matches 'conv1'"):
            FilterBank.from_models(net(), exclude="conv1")
        with pytest.raises(HeadstartError, match=r"exclude='\*' leave no convolution of models\[0\].*has 0, 2\.0, 3"):
            FilterBank.from_models(net(), exclude="*")

    def test_unknown_distance(self, net):
        with pytest.raises(HeadstartError, match="no distance 'fourier'"):
            FilterBank.from_models(net(), distance="fourier")

    def test_whole_filters(self, net):
        bank = FilterBank.from_models([net(0), net(1)], whole=True)
        assert [tuple(e.centroids.shape[1:]) for e in bank.entries] == [(3, 3, 3), (1, 5, 5), (8, 3, 3)]
        assert [int(e.sizes.sum()) for e in bank.entries] == [8, 8, 16]
        assert bank.find((3, 3), 0.2) is None
        assert bank.find((3, 3), 0.2, whole_channels=8).layer == "3"

    def test_slices_of_other_widths_go_together_but_whole_filters_do_not(self, net):
        models = [net(0), net(1, width=6)]
        assert int(FilterBank.from_models(models).entries[0].sizes.sum()) == 12 + 18
        with pytest.raises(HeadstartError, match="'3' has 8×3×3 and 12×3×3 filters"):
            FilterBank.from_models(models, whole=True)

    def test_layers_that_do_not_match_name_both_sources(self, net, tmp_path):
        torch.save(net().state_dict(), tmp_path / "a.pt")
        other = net()
        other[3] = nn.Conv2d(8, 8, 5)
        torch.save(other.state_dict(), tmp_path / "b.pt")
        with pytest.raises(HeadstartError, match=r"a\.pt' and '.*b\.pt' do not match: '3' has 3×3 and 5×5.*pool=True"):
            FilterBank.from_models([tmp_path / "a.pt", tmp_path / "b.pt"])
        more = nn.Sequential(net(), nn.Conv2d(2, 2, 3))
        with pytest.raises(
            HeadstartError, match=r"models\[0\].* and models\[1\].*: models\[0\].* has '0', .* does not"
        ):
            FilterBank.from_models([net(), more])
        assert len(FilterBank.from_models([net(), other], include=["0", "2"]).entries) == 2

    def test_a_layer_more_in_the_second_source(self, net):
        first = net()
        second = net()
        second.append(nn.Conv2d(2, 2, 3))
        with pytest.raises(HeadstartError, match=r"models\[1\] \(Sequential\) has '6', models\[0\]"):
            FilterBank.from_models([first, second])


class TestPooled:
    def test_bins_of_depth_with_the_first_layer_apart(self):
        model = nn.Sequential(*(nn.Conv2d(1 if i == 0 else 2, 2, 3) for i in range(9)))
        bank = FilterBank.from_models(model, pool=True, bins=2, clusters=2)
        assert [e.depth for e in bank.entries] == [0.0, (1 + 2 + 3 + 4) / 4 / 8, (5 + 6 + 7 + 8) / 4 / 8]
        assert [int(e.sizes.sum()) for e in bank.entries] == [2, 16, 16]
        assert {e.layer for e in bank.entries} == {""}

    def test_other_architectures_kernels_and_kinds(self, net):
        other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 5), nn.Conv2d(4, 8, 5, groups=4))
        bank = FilterBank.from_models([net(), other], pool=True, bins=1)
        found = [(e.kernel, e.depthwise, e.depth, int(e.sizes.sum())) for e in bank.entries]
        assert found == [
            ((3, 3), False, 0.0, 12 + 12),
            ((3, 3), False, 1.0, 64),
            ((5, 5), False, 0.5, 16),
            ((5, 5), True, 0.75, 4 + 8),
        ]

    def test_a_pattern_has_to_match_in_one_source_only(self, net):
        other = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
        bank = FilterBank.from_models([net(), other], pool=True, exclude=["2", "0.1"])
        assert sum(int(e.sizes.sum()) for e in bank.entries) == 12 + 64 + 12
        with pytest.raises(HeadstartError, match=r"no convolution of the sources that matches '0\.2'"):
            FilterBank.from_models([net(), other], pool=True, exclude=["2", "0.2"])
        with pytest.raises(HeadstartError, match=r"leave no convolution of models\[1\]"):
            FilterBank.from_models([net(), other], pool=True, include="2")

    def test_whole_filters_by_their_channels(self, net):
        bank = FilterBank.from_models([net(), net(1, width=6)], pool=True, whole=True)
        assert bank.find((3, 3), 1.0, whole_channels=8) is not bank.find((3, 3), 1.0, whole_channels=12)

    def test_options_that_do_not_fit(self, net):
        with pytest.raises(HeadstartError, match="no layer names"):
            FilterBank.from_models(net(), pool=True, clusters={"*": 2})
        with pytest.raises(HeadstartError, match=r"^bins=0 is not at least 1\.$"):
            FilterBank.from_models(net(), pool=True, bins=0)


class TestNotes:
    def test_fewer_distinct_slices_than_clusters(self):
        conv = nn.Conv2d(1, 6, 3)
        with torch.no_grad():
            conv.weight.copy_(torch.eye(9)[[0, 0, 0, 1, 1, 1]].reshape(6, 1, 3, 3))
        bank = FilterBank.from_models({"conv.weight": conv.weight}, clusters=5)
        assert bank.entries[0].sizes.tolist() == [3, 3]
        (note,) = bank.provenance["notes"]
        assert note == "Layer 'conv': 2 clusters instead of 5: there are no more distinct filters."
        assert note in str(bank)

    def test_sample(self, net):
        bank = FilterBank.from_models([net(s) for s in range(4)], include="3", sample=9 * 100, clusters=3)
        (entry,) = bank.entries
        assert int(entry.sizes.sum()) == 256  # stands for all that were seen
        assert bank.provenance["notes"] == ["Layer '3': clustered on a sample of 100 of 256."]
        full = FilterBank.from_models([net(s) for s in range(4)], include="3", clusters=3).entries[0]
        assert entry.norm == full.norm
        assert entry.inertia == pytest.approx(full.inertia, rel=0.25)

    def test_filters_without_a_direction(self, net):
        model = net()
        with torch.no_grad():
            model[3].weight[0] = 0
        bank = FilterBank.from_models(model, distance="cosine", include="3")
        assert int(bank.entries[0].sizes.sum()) == 56
        assert bank.provenance["notes"] == ["Layer '3': 8 filters are zero and have no direction; left out."]


class TestSeeds:
    @pytest.mark.parametrize("distance", ["euclidean", "cosine"])
    def test_same_seed_same_bank(self, net, distance):
        def make(seed):
            return FilterBank.from_models([net()], clusters=10, distance=distance, seed=seed).fingerprint

        assert make(0) == make(0)
        assert make(0) != make(1)

    @pytest.mark.parametrize("distance", DISTANCES)
    def test_threads_do_not_matter(self, distance):
        weight = torch.randn(300, 300, 3, 3, generator=torch.Generator().manual_seed(0))
        found = []
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                bank = FilterBank.from_models({"a.weight": weight}, clusters=4, distance=distance)
                found.append(bank.entries[0])
        finally:
            torch.set_num_threads(before)
        assert torch.equal(found[0].sizes, found[1].sizes)
        assert torch.allclose(found[0].centroids, found[1].centroids, atol=1e-6)

    def test_a_generator_is_a_seed(self, net):
        generator = torch.Generator().manual_seed(5)
        first = FilterBank.from_models(net(), clusters=10, seed=generator)
        again = FilterBank.from_models(net(), clusters=10, seed=first.provenance["seed"])
        assert first.fingerprint == again.fingerprint
        assert FilterBank.from_models(net(), clusters=10, seed=generator).fingerprint != first.fingerprint

    def test_excluding_a_layer_moves_no_other(self, net):
        whole = by_name(FilterBank.from_models(net(), clusters=10))
        part = by_name(FilterBank.from_models(net(), clusters=10, exclude="0"))
        assert torch.equal(whole["3"].centroids, part["3"].centroids)


def test_provenance_says_it_all(net, tmp_path):
    for seed in range(25):
        torch.save(net(seed).state_dict(), tmp_path / f"{seed:02d}.pt")
    known = FilterBank.from_models(tmp_path, distance="even", pool=True, exclude="0").provenance
    assert known["title"] == "filters of 25 networks, pooled"
    assert known["sources"][0] == str(tmp_path / "00.pt")
    assert known["sources"][20:] == ["and 5 more"]
    assert (known["distance"], known["clusters"], known["pool"], known["bins"]) == ("even", 3, True, 4)
    assert (known["include"], known["exclude"], known["seed"]) == (None, "0", 0)
    assert set(known["versions"]) == {"headstart", "torch", "scikit-learn"}


def test_progress(net):
    calls = []
    FilterBank.from_models([net(0), net(1)], progress=lambda *call: calls.append(call))
    assert calls == [
        ("reading", 0, None),
        ("reading", 1, None),
        ("clustering", 0, 3),
        ("clustering", 1, 3),
        ("clustering", 2, 3),
    ]


def test_summary(net):
    bank = FilterBank.from_models([net()], clusters=2)
    text = str(bank)
    assert "filters of 1 network, by layer" in text
    assert "5×5 depthwise slices" in text
    assert "Clusters by euclidean distance, seed 0." in text
    assert "<table" in bank._repr_html_()
    plain = bank.summary().to_dict()
    assert [row["sizes"] for row in plain["entries"]] == [e.sizes.tolist() for e in bank.entries]
