"""Auto: the default. A recipe by kind of network that does only what the evidence supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headstart.engine.left_alone import nothing_but_zeros
from headstart.engine.method import Method, OnComplex
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.errors import DataError, ModelError
from headstart.methods.data_dependent.balance import Balance
from headstart.methods.data_dependent.within_layer import WithinLayer
from headstart.methods.filter_clusters import FilterClusters
from headstart.methods.shared.bank_lookup import match, open_banks
from headstart.methods.shared.normalization import leave_normed
from headstart.methods.shared.spatial import is_depthwise
from headstart.methods.shared.understood import leave_not_understood, why_not_understood
from headstart.methods.whitening import Whitening
from headstart.model import weights
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

PATCHES = 4000  # of a layer: more cost more and gained nothing
LARGEST = {2: 7, 3: 5}  # by dimensions, side of the largest kernel on which whitening was shown to help
LAYERS_PER_NORM = 4  # with more layers than that for each norm, signals fade as they do without

STEM = Whitening()
CLUSTERS = FilterClusters.paper()
FILLED = WithinLayer.kmeans(patches=PATCHES)
KEPT = WithinLayer(fill="keep")
DRAWN = WithinLayer()  # for a layer that has no directions to keep


@register(
    "auto",
    summary="with norms: a whitening first layer, or clusters of trained filters in depthwise ones; without: k-means"
    " filters, normalized and balanced",
    reference="Coates and Ng 2012, Jordan 2024 (whitening); Ulm et al. (filter clusters); Krähenbühl et al. 2016"
    " (k-means, within-layer, balance)",
    scope="all layers",
    needs_data=True,
    cost="a pass of two samples that tries what takes the layers' outputs; with norms the patches of the first layer;"
    " without norms one forward pass of the batch, a clustering of 4,000 patches for each convolution, and one pass"
    " forward and backward to balance",
    deviations=(
        "k-means sees 4,000 patches per layer, not 100,000: an eighth of the time, and trained as well.",
        "Hidden linear layers keep their weights' directions, since k-means on them lost accuracy.",
        "A network of linear layers alone is not balanced, and its output layer stays as it is.",
        "Filter clusters go into the first convolution and depthwise ones alone, and only where a batch or instance"
        " norm follows: before layer norms, whose channels keep their lengths, they lost.",
        "Depthwise layers whose input is smaller than their kernel stay: trained filters there lost.",
    ),
    depends_on_other_layers=True,  # how many norms there are decides for every layer
    # 2: balance squares gradients sample by sample; 3: what authors chose is left; 4: moments in one pass; 5: balance
    # without padding; 6: trained networks are left; 7, 10: balance; 8: k-means on sums by rows;
    # 9: first layers over volumes; 11: none is whitened before a depthwise layer without a norm;
    # 12: wide layers' directions by a search; 13: depthwise layers on maps smaller than their kernel stay
    revision=13,
)
@dataclass(frozen=True)
class Auto(Method):
    """The default of ``headstart.initialize``: a recipe by kind of network.

    The idea: do what was found to help on such a network, and nothing else. If normalization layers set the
    scales, the first convolution gets ± the leading eigenvectors of its input's patches, at its own norm. But if
    there are depthwise convolutions with kernels that the shipped filter banks have, these and
    the first convolution get clusters of trained networks' filters. A depthwise layer whose input is smaller than its
    kernel stays: there a filter sees mostly padding. Nothing else is written. Without norms, every
    convolution and the output layer get k-means filters of their input, every layer gets outputs of deviation 1 per
    channel, and layers are then rescaled so that all learn at one rate, without changing the function. In a network
    of linear layers only, hidden layers get outputs of mean 0 and deviation 1, and nothing else is written.

    A network counts as one without norms if it has fewer than one norm per four weight layers. Convolutions without
    a norm directly behind are left alone in a network with norms. So is a first one on which whitening was not shown to
    help: with groups, in one dimension (it lost on sound), or with a kernel larger than 7, or 5 for volumes.
    So is one with a depthwise layer behind it that no norm follows: there each channel passes alone, also channels
    that hold only noise.

    In every network, a layer that is not understood is left, and the report says why. There are four reasons. (1) Its
    weights are not an independent uniform or normal draw at a usual scale: they are zero, orthogonal, structured or
    trained, a choice of their author. (A single training step shows in the weights, the biases, or a norm behind.)
    (2) It runs on its own earlier outputs, or on inputs of different scales. (3) Its activation is unlike those that
    the recipes were tested on, such as a sine. (4) Its forward changes the weight before use. Without norms, one such
    layer makes all layers stay, since their scales depend on each other.

    Args:
        force: Write layers whatever their weights and activations are, all-zero ones included. What cannot be measured
            stays: recurrences, and forwards that change the weight.
        zeros: ``"leave"`` (default) keeps layers whose weights are all zero, an author's choice; ``"write"``
            writes them as all others.

    Raises:
        HeadstartError: All weights are zero, and ``zeros`` is ``"leave"``.
        HeadstartError: A layer to normalize has fewer than 8 values per channel, or its weight cannot be
            rescaled.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        >>> hs.initialize(net, torch.randn(64, 20)).changed
        ['0']
    """

    force: bool = field(default=False, repr=False)
    zeros: str = field(default="leave", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self.check_choice("zeros", "leave", "write")

    @property
    def leaves_zeros(self) -> bool:
        """All-zero layers are left by ``select``, with the other layers that are left."""
        return False

    def identity(self) -> str:
        """The recipes, with fingerprints of the banks: another version may have other ones."""
        parts = [*(recipe.key() for recipe in (STEM, CLUSTERS, FILLED, KEPT)), *(["force"] if self.force else [])]
        parts += [] if self.zeros == "leave" else ["zeros"]
        return f"Auto({', '.join(parts)})"

    def on_complex(self) -> OnComplex:
        """Complex weights are left: no recipe was tested on them."""
        return "left"

    def studied(self, trace: ModelTrace) -> Sequence[Layer]:
        """All layers; with norms only those that it may write."""
        return trace.layers if _few_norms(trace) else [la for la in trace.layers if _is_candidate(la, trace)]

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """With norms: the first convolution and depthwise ones. Without norms: layers that no norm follows."""
        if not _few_norms(trace):
            return self._between_norms(layers, trace, report)
        # Each as in the comparison that it was chosen by.
        chosen = leave_normed(self, layers, trace, report, "skip", "normalize" if _convolves(trace.layers) else "keep")
        return self._understood(chosen, trace, report, together=True)

    def _understood(
        self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder, together: bool
    ) -> list[Layer]:
        zeros = self.zeros == "write"
        left = leave_not_understood(
            layers, trace, report, self.info.name, force=self.force, zeros=zeros, together=together
        )
        if not left and layers and not (zeros or self.force) and not any(weights.look(la).any() for la in trace.layers):
            raise nothing_but_zeros(self, trace.layers)
        return left

    def _between_norms(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> list[Layer]:
        chosen = []
        clustered = _clustered(trace, self.force, self.zeros == "write")
        for layer in layers:
            reason = "" if layer.name in clustered else _untried(layer, trace)
            if reason:
                report.skip(layer, reason)
            else:
                chosen.append(layer)
        chosen = self._understood(chosen, trace, report, together=False)
        if not chosen:
            report.add_finding("auto: nothing was found to help this kind of network, so it was left as it is.")
        return chosen

    def before(self, visit: Visit) -> None:
        """Write a layer from its input, or from a bank."""
        if _few_norms(visit.trace):
            recipe = _recipe(visit)
            bare = recipe is KEPT and (self.force or self.zeros == "write") and not bool(visit.weight.any())
            (DRAWN if bare else recipe).before(visit)
        elif self._clusters(visit):
            if visit.input is not None and not bool(visit.input.isfinite().all()):
                raise DataError(  # a bank does not look at the data, but who passes some wants to know
                    f"The input of {visit.layer.where} holds NaN or infinite values.",
                    remedy="Look for what the model does before this layer.",
                )
            if small := _small_maps(visit):
                visit.skip(small)
            else:
                CLUSTERS.before(visit)
        else:
            self._whiten(visit)

    def _clusters(self, visit: Visit) -> bool:
        if visit.layer is not visit.trace.first_convolution:
            return True  # of those behind the first only depthwise ones are selected
        return visit.layer.name in _clustered(
            visit.trace, self.force, self.zeros == "write"
        )  # asked before anything else is written

    def _whiten(self, visit: Visit) -> None:
        try:
            STEM.before(visit)
        except DataError as error:  # nothing is written then, and what cannot be had is no reason to stop
            if visit.input is None or not bool(visit.input.isfinite().all()):
                raise  # what is broken is one
            visit.skip("its input has no patches to whiten")
            visit.add_finding(f"auto: the first layer was left as it is. {error.message}")

    def after(self, visit: Visit) -> None:
        """Normalize the layers that no norm follows."""
        if _few_norms(visit.trace):
            _recipe(visit).after(visit)

    def finish(self, view: ModelView) -> None:
        """Balance a network of convolutions without norms."""
        if not _few_norms(view.trace) or not _convolves(view.trace.layers):
            return
        try:
            Balance().finish(view)
        except ModelError as error:  # from the first measurement, before anything is rescaled
            view.report.add_finding(f"auto: layers were not balanced. {error.message}")


def _recipe(visit: Visit) -> WithinLayer:
    """Without norms: convolutions and the layers that read their features are filled; other linear layers are kept."""
    read_out = visit.layer.name in visit.trace.outputs and _convolves(visit.trace.layers)
    return FILLED if visit.layer.kind == "conv" or read_out else KEPT


def _convolves(layers: Sequence[Layer]) -> bool:
    return any(layer.kind == "conv" for layer in layers)


def _few_norms(trace: ModelTrace) -> bool:
    """Whether there are too few norms to keep signals alive."""
    evened = len(trace.behaviour.evened) if trace.behaviour else 0  # by norms that are no modules
    return LAYERS_PER_NORM * (len(trace.norms) + evened) < len(trace.layers)


def _clustered(trace: ModelTrace, force: bool, zeros: bool) -> set[str]:
    """Depthwise convolutions before norms for which a bank has filters, and with them the first convolution."""
    if not any(is_depthwise(layer) and layer.name in trace.norm_after for layer in trace.layers):
        return set()  # a bank is not opened for nothing
    banks = open_banks(CLUSTERS.bank)
    served = [
        layer
        for layer in trace.layers
        if _is_candidate(layer, trace)
        and trace.norm_after.get(layer.name) in trace.channel_norms  # clusters differ in length
        and bool(weights.look(layer).any())
        and not why_not_understood(layer, trace, force=force, zeros=zeros)
        and match(layer, trace, banks, whole=False, resize=False) is not None
    ]
    return {layer.name for layer in served} if any(map(is_depthwise, served)) else set()


def _small_maps(visit: Visit) -> str:
    """Why trained filters say nothing about a depthwise layer's input; empty if they may."""
    if visit.input is None or not is_depthwise(visit.layer):
        return ""
    sides = visit.input.shape[-len(visit.layer.kernel) :]
    if all(side >= kernel for side, kernel in zip(sides, visit.layer.kernel, strict=True)):
        return ""
    map_, kernel = ("×".join(map(str, each)) for each in (sides, visit.layer.kernel))
    return f"its input of {map_} is smaller than its kernel of {kernel}, so that most of a filter sees padding"


def _is_candidate(layer: Layer, trace: ModelTrace) -> bool:
    """Whether a layer may be written in a network with norms."""
    return (is_depthwise(layer) or layer is trace.first_convolution) and layer.name in trace.norm_after


def _untried(layer: Layer, trace: ModelTrace) -> str:
    """Why a layer is not a first convolution on which whitening was shown to help; empty if it is."""
    if layer is not trace.first_convolution:
        return "norms set the scales, and nothing was found to help here"
    if layer.name not in trace.norm_after:
        return "no norm follows this first layer; where none did, in a patch embedding, whitening gained nothing"
    if len(layer.kernel) not in LARGEST:
        return "in one dimension whitening was tried over sound alone, where it lost"
    if layer.groups > 1 or max(layer.kernel) > LARGEST[len(layer.kernel)]:
        most = " and ".join(f"{side} in {dims}-D" for dims, side in LARGEST.items())
        return f"whitening was shown to help on ungrouped convolutions with kernels up to {most}"
    if not bool(weights.look(layer).any()):
        return "its weights are all zero, so there is no size to match"
    behind = next(iter(trace.layers[trace.layers.index(layer) + 1 :]), None)
    if behind is not None and is_depthwise(behind) and behind.name not in trace.norm_after:
        return f"'{behind.name}' behind it is depthwise and has no norm; whitening slowed a network of this kind"
    return ""
