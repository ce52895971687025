"""Register a method of your own: it then works everywhere by its name, and keeps the same promises.

A method is a frozen dataclass. Its fields are its options, `before` fills a layer, `after` rescales it once its
output is known. Reading and writing weights (any layer kind, precision, parametrization), undoing everything on
an error, and the report are the library's.

Run: python examples/third_party_method.py
"""

from dataclasses import dataclass

import torch
from torch import nn

import headstart as hs


@hs.register(
    "sparse-normal",
    summary="each unit listens to a few inputs only",
    reference="after Martens 2010, Deep learning via Hessian-free optimization, section 5",
    scope="all layers",
    needs_data=False,
    cost="no forward pass of its own",
)
@dataclass(frozen=True)
class SparseNormal(hs.Method):
    """Normal weights for `inputs` inputs of each unit, zero for the others.

    Args:
        inputs: How many inputs a unit listens to.
    """

    inputs: int = 15

    def __post_init__(self) -> None:
        self.check(self.inputs > 0, f"inputs={self.inputs} is not positive", "Pass at least 1.")

    def before(self, visit) -> None:
        units, inputs = visit.layer.out_channels, visit.weight[0].numel()
        order = torch.rand(units, inputs, generator=visit.generator("mask")).argsort(1)
        mask = (order < self.inputs).to(visit.weight)
        weight = visit.normal(*visit.layer.shape)
        visit.write(weight * mask.view(weight.shape))
        visit.note(f"{min(self.inputs, inputs)} of {inputs} inputs per unit")


model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
print(hs.initialize(model, method="sparse-normal:inputs=12", seed=0))
print("nonzero weights per unit:", int((model[0].weight != 0).sum(1).max()))

print(hs.describe("sparse-normal"))

# It composes with the package's own methods, and bad options are refused before anything is touched.
report = hs.initialize(model, torch.randn(128, 100), ["sparse-normal", "within-layer:fill=keep"])
print("output std:", [round(row.output_std, 2) for row in report.rows])
try:
    hs.initialize(model, method="sparse-normal:inputs=0")
except hs.HeadstartError as error:
    print("refused:", error)

# To hold it to the contract that every method of the package keeps:
# from headstart.conformance import check; check(SparseNormal())
