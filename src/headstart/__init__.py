"""Start neural networks from their data: every data-informed initialization behind one safe call.

>>> import torch, headstart as hs
>>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10))
>>> report = hs.initialize(model, torch.rand(64, 1, 12, 12), "prewarm", seed=0)
>>> report.changed
['0']
"""

from headstart import distributed
from headstart.adapt.adapt_conv import AdaptReport, adapt_conv
from headstart.adapt.channel_mix import adapt_weight
from headstart.api import apply, compute, initialize
from headstart.banks import FilterBank
from headstart.calibration import calibrate
from headstart.diagnosis.diagnose import diagnose
from headstart.diagnosis.health import Diagnosis
from headstart.diagnosis.rows import Finding, LayerHealth
from headstart.engine.registry import describe, list_methods, register
from headstart.errors import (
    DataError,
    HeadstartError,
    MissingExtraError,
    ModelError,
    UnknownNameError,
    WriteError,
)
from headstart.fitting.curves import SampleCurves, sample_curves
from headstart.methods import (
    LSUV,
    Airbench,
    AlignedClusters,
    Auto,
    Balance,
    Calibrate,
    CovarianceTransfer,
    DataDependent,
    Default,
    DeltaOrthogonal,
    Dirac,
    FilterClusters,
    Gabor,
    Info,
    Kaiming,
    KrahenbuhlKMeans,
    LeCun,
    MatchedRandom,
    Method,
    Mimetic,
    Orthogonal,
    OutputPrior,
    Pretrained,
    PreWarm,
    Recurrent,
    Residual,
    SampleTraining,
    ShrinkPerturb,
    Siren,
    SmartInit,
    StructuredCovariance,
    WarmStart,
    WeightSelection,
    Whitening,
    WithinLayer,
    Xavier,
    Zero,
    ZeroDCRandom,
)
from headstart.model.meta import materialize
from headstart.results.report import Init, Report, Row
from headstart.symmetries.alignment import Alignment, align
from headstart.symmetries.folding import Folded, fold_batch_norms
from headstart.version import __version__ as __version__

__all__ = [
    "LSUV",
    "AdaptReport",
    "Airbench",
    "AlignedClusters",
    "Alignment",
    "Auto",
    "Balance",
    "Calibrate",
    "CovarianceTransfer",
    "DataDependent",
    "DataError",
    "Default",
    "DeltaOrthogonal",
    "Diagnosis",
    "Dirac",
    "FilterBank",
    "FilterClusters",
    "Finding",
    "Folded",
    "Gabor",
    "HeadstartError",
    "Info",
    "Init",
    "Kaiming",
    "KrahenbuhlKMeans",
    "LayerHealth",
    "LeCun",
    "MatchedRandom",
    "Method",
    "Mimetic",
    "MissingExtraError",
    "ModelError",
    "Orthogonal",
    "OutputPrior",
    "PreWarm",
    "Pretrained",
    "Recurrent",
    "Report",
    "Residual",
    "Row",
    "SampleCurves",
    "SampleTraining",
    "ShrinkPerturb",
    "Siren",
    "SmartInit",
    "StructuredCovariance",
    "UnknownNameError",
    "WarmStart",
    "WeightSelection",
    "Whitening",
    "WithinLayer",
    "WriteError",
    "Xavier",
    "Zero",
    "ZeroDCRandom",
    "adapt_conv",
    "adapt_weight",
    "align",
    "apply",
    "calibrate",
    "compute",
    "describe",
    "diagnose",
    "distributed",
    "fold_batch_norms",
    "initialize",
    "list_methods",
    "materialize",
    "register",
    "sample_curves",
]
