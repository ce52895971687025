import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from headstart.banks import elbow
from headstart.errors import HeadstartError


def layer(k=4, each=40, noise=0.05, seed=0):
    """A state dict with one layer whose slices lie around ``k`` prototypes."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(k, 1, 3, 3, generator=generator).repeat_interleave(each, 0)
    return {"conv.weight": prototypes + noise * torch.randn(k * each, 1, 3, 3, generator=generator)}


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "even", "magnitude"])
def test_finds_the_number_of_clusters_that_there_are(distance):
    measured = elbow(layer(), (2, 3, 4, 5, 8), distance=distance)
    assert measured.best() == {"layer 'conv'": 4}
    four = measured.tried[2]
    assert four.explained > 0.95
    assert four.silhouette > 0.7


def test_inertia_and_silhouette_are_those_of_scikit_learn():
    slices = layer()["conv.weight"].flatten(1).numpy()
    oracle = KMeans(4, n_init=5, random_state=0).fit(slices)
    (row,) = elbow(layer(), (4,)).tried
    assert row.inertia == pytest.approx(oracle.inertia_, rel=1e-4)
    assert row.silhouette == pytest.approx(silhouette_score(slices, oracle.labels_), abs=1e-5)
    total = ((slices - slices.mean(0)) ** 2).sum()
    assert row.explained == pytest.approx(1 - oracle.inertia_ / total, abs=1e-5)


def test_a_sampled_silhouette_is_close_to_the_whole_one():
    state = layer(k=3, each=1000, noise=0.5)
    slices = state["conv.weight"].flatten(1).numpy()
    (row,) = elbow(state, (3,)).tried
    labels = KMeans(3, n_init=5, random_state=0).fit_predict(slices)
    assert row.silhouette == pytest.approx(silhouette_score(slices, labels), abs=0.03)
    assert elbow(state, (3,)).tried == [row]  # deterministic


def test_one_cluster_explains_nothing_and_copies_everything():
    one, many = elbow(layer(k=3, noise=0), (1, 3)).tried
    assert (one.explained, one.silhouette) == (0.0, None)
    assert many.explained == pytest.approx(1)


def test_copies_of_one_filter():
    state = {"conv.weight": torch.ones(20, 1, 3, 3)}
    (row,) = elbow(state, (3,)).tried
    assert (row.found, row.silhouette, row.explained) == (1, None, 1.0)
    assert elbow(state, (3,)).best() == {}
    assert elbow(state, (3,)).sentences() == []


def test_table_and_json():
    measured = elbow([layer(), layer(seed=1)], (2, 4))
    text = str(measured)
    assert "explained share" in text
    assert "largest at 4 clusters" in text
    assert elbow(layer(), (4,)).sentences() == []  # nothing to choose from
    assert measured.to_dict()["best"] == {"layer 'conv'": 4}
    assert [row["clusters"] for row in measured.to_dict()["tried"]] == [2, 4]
    assert np.isfinite([row["inertia"] for row in measured.to_dict()["tried"]]).all()


@pytest.mark.parametrize("ks", [(), (0, 2), (-1,)])
def test_numbers_that_are_none(ks):
    with pytest.raises(HeadstartError, match="numbers of at least 1"):
        elbow(layer(), ks)
