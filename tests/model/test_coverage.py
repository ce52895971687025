"""What is not looked at is said."""

import torch
from torch import nn
from torch.nn.utils import parametrizations

import headstart as hs
from headstart.model.coverage import outside, unseen
from headstart.model.weights import weight_layers


class Conv1D(nn.Module):
    """As in GPT-2: a linear layer with its weight the other way round."""

    def __init__(self, n_out, n_in):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(n_in, n_out)), nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


def shares(model):
    return outside(model, weight_layers(model))


def test_shares_are_counted_by_hand():
    model = nn.Sequential(Conv1D(30, 10), nn.LayerNorm(30), nn.Linear(30, 5), nn.LSTM(5, 4))
    lstm = 16 * 5 + 16 * 4
    total = 300 + 150 + lstm
    assert shares(model) == {"Conv1D": 300 / total, "LSTM": lstm / total}


def test_what_is_tied_to_a_layer_is_looked_at_with_it():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
            self.head.weight = self.embed.weight

    assert shares(Language()) == {}


def test_parametrized_modules_count_by_their_own_kind():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), parametrizations.orthogonal(Conv1D(4, 4)))
    assert list(shares(model)) == ["Conv1D"]


def test_norms_biases_and_gains_are_no_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((4, 4)), nn.BatchNorm1d(4))
    model.gain = nn.Parameter(torch.ones(4))
    assert unseen(model, weight_layers(model)) == ""


def test_many_kinds_are_cut():
    holders = [type(f"Kind{i}", (nn.Module,), {})() for i in range(6)]
    for i, holder in enumerate(holders):
        holder.w = nn.Parameter(torch.zeros(10 - i, 100))
    model = nn.Sequential(nn.Linear(2, 2), *holders)
    assert unseen(model, weight_layers(model)) == (
        "100 % of the weights are in modules that headstart does not treat: Kind0 (22 %), Kind1 (20 %), Kind2 (18 %),"
        " Kind3 (16 %) and 2 more kinds."
    )


def test_report_and_diagnosis_say_it_in_a_note():
    torch.manual_seed(0)
    model, x = nn.Sequential(Conv1D(16, 8), nn.ReLU(), nn.Linear(16, 4)), torch.randn(64, 8)
    said = "67 % of the weights are in modules that headstart does not treat: Conv1D."
    report = hs.initialize(model, x, "delta-orthogonal")
    assert hs.initialize(model, x, "within-layer").notes == []  # which treats such layers
    assert report.notes == [said]
    assert said not in report.findings
    assert said in str(report)
    assert said in report.to_html()
    assert report.to_dict()["notes"] == [said]
    assert hs.initialize(nn.Linear(8, 4), x, "lsuv").notes == []
    assert said not in hs.diagnose(model, x).notes  # which shows such layers

    model[0] = parametrizations.weight_norm(model[0])
    diagnosis = hs.diagnose(model, x)
    assert diagnosis.notes[-1:] == [said.replace("67", "68")]  # its sizes count, too
    assert diagnosis.findings == []
