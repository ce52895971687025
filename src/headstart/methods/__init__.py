"""One file per paper. Importing this package registers every method.

Imports the rooms below, never the front door or the benchmark. The front door, diagnosis, the benchmark and the command
line may import it.
"""

from headstart.engine.method import Info, Method
from headstart.methods.airbench import Airbench
from headstart.methods.aligned_clusters import AlignedClusters
from headstart.methods.auto import Auto
from headstart.methods.baselines import (
    Default,
    DeltaOrthogonal,
    Dirac,
    Kaiming,
    LeCun,
    Orthogonal,
    Xavier,
    Zero,
)
from headstart.methods.controls import MatchedRandom, ZeroDCRandom
from headstart.methods.covariance import CovarianceTransfer, StructuredCovariance
from headstart.methods.data_dependent.balance import Balance
from headstart.methods.data_dependent.calibrate import Calibrate
from headstart.methods.data_dependent.data_dependent import DataDependent, KrahenbuhlKMeans
from headstart.methods.data_dependent.within_layer import WithinLayer
from headstart.methods.filter_clusters import FilterClusters
from headstart.methods.gabor import Gabor
from headstart.methods.lsuv import LSUV
from headstart.methods.mimetic import Mimetic
from headstart.methods.output_prior import OutputPrior
from headstart.methods.prewarm import PreWarm
from headstart.methods.recurrent import Recurrent
from headstart.methods.residual import Residual
from headstart.methods.sample_training import SampleTraining, ShrinkPerturb, SmartInit, WarmStart
from headstart.methods.siren import Siren
from headstart.methods.transfer import Pretrained
from headstart.methods.weight_selection import WeightSelection
from headstart.methods.whitening import Whitening

__all__ = [
    "LSUV",
    "Airbench",
    "AlignedClusters",
    "Auto",
    "Balance",
    "Calibrate",
    "CovarianceTransfer",
    "DataDependent",
    "Default",
    "DeltaOrthogonal",
    "Dirac",
    "FilterClusters",
    "Gabor",
    "Info",
    "Kaiming",
    "KrahenbuhlKMeans",
    "LeCun",
    "MatchedRandom",
    "Method",
    "Mimetic",
    "Orthogonal",
    "OutputPrior",
    "PreWarm",
    "Pretrained",
    "Recurrent",
    "Residual",
    "SampleTraining",
    "ShrinkPerturb",
    "Siren",
    "SmartInit",
    "StructuredCovariance",
    "WarmStart",
    "WeightSelection",
    "Whitening",
    "WithinLayer",
    "Xavier",
    "Zero",
    "ZeroDCRandom",
]
