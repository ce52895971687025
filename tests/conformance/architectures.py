"""Architectures that hypothesis draws: of one to three dimensions, with what people put into their models."""

import warnings
from collections import namedtuple
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

CHANNELS, SIDE, SAMPLES = 4, 6, 16
CONVS, TRANSPOSED = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAZY = (nn.LazyConv1d, nn.LazyConv2d, nn.LazyConv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Both = namedtuple("Both", "logits features")


@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor | None = None


class Sum(nn.Module):
    """Branches of one input, added or joined."""

    def __init__(self, *branches, mix=None):
        super().__init__()
        self.branches, self.mix = nn.ModuleList(branches), mix

    def forward(self, x):
        found = [branch(x) for branch in self.branches]
        return sum(found) if self.mix is None else self.mix(torch.cat(found, 1))


class Twice(nn.Module):
    """One module that runs twice."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(self.module(x).tanh())


class Network(nn.Module):
    """Blocks, a read-out, and an output of some form."""

    def __init__(self, blocks, head, form):
        super().__init__()
        self.blocks, self.head, self.form = nn.Sequential(*blocks), head, form

    def forward(self, x):
        features = self.blocks(x)
        logits = self.head(features.flatten(2).mean(2))
        return {
            "tensor": lambda: logits,
            "tuple": lambda: (logits, features),
            "named tuple": lambda: Both(logits, features),
            "dict": lambda: {"logits": logits, "features": [features]},
            "dataclass": lambda: Output(logits, features),
        }[self.form]()


def conv(dims, kernel=3, groups=1, bias=True, into=CHANNELS):
    return CONVS[dims](into, CHANNELS, kernel, padding=kernel // 2, groups=groups, bias=bias)


def older_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


def depthwise(dims):
    """As in MobileOne: a depthwise convolution of one tap beside one of three."""
    sides = [nn.Sequential(conv(dims, k, CHANNELS, bias=False), BATCH_NORMS[dims](CHANNELS)) for k in (1, 3)]
    return Sum(*sides, nn.Identity())


def tied(dims):
    a, b = conv(dims), conv(dims)
    b.weight = a.weight
    return nn.Sequential(a, nn.ReLU(), b)


BLOCKS = {
    "convolution": conv,
    "one tap": lambda dims: conv(dims, 1),
    "grouped": lambda dims: conv(dims, groups=2, bias=False),
    "depthwise": depthwise,
    "transposed": lambda dims: TRANSPOSED[dims](CHANNELS, CHANNELS, 3, padding=1, groups=2),
    "weight norm": lambda dims: parametrizations.weight_norm(conv(dims)),
    "older weight norm": lambda dims: older_weight_norm(conv(dims)),
    "spectral norm": lambda dims: parametrizations.spectral_norm(conv(dims)),
    "lazy": lambda dims: LAZY[dims](CHANNELS, 3, padding=1),
    "tied": tied,
    "shared": lambda dims: Twice(conv(dims)),
    "residual": lambda dims: Sum(nn.Identity(), nn.Sequential(BATCH_NORMS[dims](CHANNELS), nn.ReLU(), conv(dims))),
    "joined": lambda dims: Sum(conv(dims), conv(dims, 1), mix=conv(dims, 1, into=2 * CHANNELS)),
    "nested": lambda dims: nn.Sequential(nn.Sequential(nn.Sequential(conv(dims), nn.GELU()))),
    "batch norm": lambda dims: BATCH_NORMS[dims](CHANNELS),
    "group norm": lambda dims: nn.GroupNorm(2, CHANNELS),
    "relu": lambda dims: nn.ReLU(),
    "tanh": lambda dims: nn.Tanh(),
}
HEADS = {
    "linear": lambda: nn.Linear(CHANNELS, 3),
    "lazy": lambda: nn.LazyLinear(3),
    "hidden": lambda: nn.Sequential(nn.Linear(CHANNELS, 8), nn.ReLU(), nn.Linear(8, 3)),
}
FORMS = ("tensor", "tuple", "named tuple", "dict", "dataclass")


@dataclass(frozen=True)
class Plan:
    """An architecture; it builds the same model every time."""

    dims: int
    blocks: tuple[str, ...]
    head: str
    form: str

    def build(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = conv(self.dims, into=3)
            return Network([first, *(BLOCKS[b](self.dims) for b in self.blocks)], HEADS[self.head](), self.form)

    def data(self):
        draws = torch.Generator().manual_seed(1)
        return torch.randn(SAMPLES, 3, *[SIDE] * (self.dims + 1), generator=draws)


PLANS = st.builds(
    Plan,
    st.integers(0, 2),
    st.lists(st.sampled_from(list(BLOCKS)), min_size=1, max_size=5).map(tuple),
    st.sampled_from(list(HEADS)),
    st.sampled_from(FORMS),
)
