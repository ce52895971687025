"""A start in nnU-Net's form is loaded by nnU-Net's own function, which leaves the ``seg_layers`` as they are."""

import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what hosts say when they are imported
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: make test-hosts")

    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from headstart.cli.main import main

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, padding=1)
        self.decoder = nn.Module()
        self.decoder.seg_layers = nn.ModuleList([nn.Conv2d(4, 2, 1)])

    def forward(self, x):
        return self.decoder.seg_layers[0](torch.relu(self.encoder(x)))
"""


def test_nnunets_own_function_loads_it(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    torch.save(images, "images.pt")
    words = [
        "init",
        "net.py:Net",
        "--data",
        "images.pt",
        "--method",
        "lsuv",
        "--format",
        "nnunet",
        "--out",
        "start.pth",
    ]
    assert main(words) == 0
    scope = {}
    exec(NET, scope)
    network = scope["Net"]()
    head = network.decoder.seg_layers[0].weight.detach().clone()
    load_pretrained_weights(network, "start.pth")
    start = torch.load("start.pth", weights_only=True)["network_weights"]
    assert torch.equal(network.encoder.weight, start["encoder.weight"])
    assert torch.equal(network.decoder.seg_layers[0].weight, head)
