"""A filter bank: clusters of trained filters, by layer or pooled, from which new networks are filled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headstart.banks import storage
from headstart.banks.build import BINS, SAMPLE, build
from headstart.banks.entry import Entry
from headstart.banks.gather import Progress
from headstart.banks.merge import merged
from headstart.banks.source_filters import Model, Names
from headstart.banks.summary import Summary
from headstart.errors import HeadstartError, needs_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class FilterBank:
    """Clusters of the filters of trained networks, with their provenance.

    Args:
        entries: One per layer, or per kind of layer.
        provenance: Sources, distance, clusters, seed, versions, licence, command, title; ready for JSON.

    Raises:
        HeadstartError: There are no entries.

    Example:
        >>> models = (torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 5)) for _ in range(4))
        >>> bank = FilterBank.from_models(models, clusters=3)
        >>> [(entry.layer, entry.kernel, len(entry), int(entry.sizes.sum())) for entry in bank.entries]
        [('0', (3, 3), 3, 96), ('1', (5, 5), 3, 256)]
    """

    entries: tuple[Entry, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.entries:
            raise HeadstartError("A filter bank needs at least one entry.")

    @classmethod
    def from_models(
        cls,
        models: Iterable[Model] | Model,
        *,
        clusters: int | Mapping[str, int] = 3,
        distance: str = "euclidean",
        pool: bool = False,
        whole: bool = False,
        include: Names = None,
        exclude: Names = None,
        seed: int | torch.Generator = 0,
        bins: int = BINS,
        sample: int = SAMPLE,
        progress: Progress | None = None,
    ) -> FilterBank:
        """Cluster the filters of networks, for every convolution with a kernel of more than one tap.

        Sources are read one after the other. Only filters are kept, at most ``sample`` weights per entry.

        Args:
            models: Modules, state dicts, ``.safetensors`` files, files that ``torch.load(weights_only=True)``
                reads, or folders of files. Several may come in any iterable, also a generator.
            clusters: The number for each entry, or ``{glob of layer names: number}``; the first glob that matches
                counts.
            distance: ``"euclidean"``, ``"cosine"``, ``"even"`` (the published "Fourier") or ``"magnitude"``.
            pool: Put layers with the same kernel size, depth and kind together, whatever their names, so that one
                architecture's filters serve another. Otherwise all sources need the same layers.
            whole: Cluster whole filters, all input channels at once, instead of slices.
            include: Only these layers: names, globs or blocks.
            exclude: Not these layers.
            seed: The seed of every draw.
            bins: Bins of relative depth when pooled; the first convolution has its own bin.
            sample: At most this many weights per entry are clustered, drawn uniformly from all sources (64 MiB).
            progress: Called as ``progress(what, done, total)``.

        Returns:
            The bank. ``notes`` in its provenance says what was left out or sampled.

        Raises:
            HeadstartError: There is no source, one cannot be read or holds weights that are not finite, layers
                do not match, or an option does not fit.
        """
        entries, provenance = build(
            models,
            clusters=clusters,
            distance=distance,
            pool=pool,
            whole=whole,
            include=include,
            exclude=exclude,
            seed=seed,
            bins=bins,
            sample=sample,
            progress=progress,
        )
        return cls(entries, provenance)

    @classmethod
    def merge(cls, *banks: FilterBank) -> FilterBank:
        """Join banks of one kind: the clusters of a layer, or of a kernel size and depth bin, are put together.

        Each cluster keeps its number of filters, so larger banks weigh more. A centroid that several banks
        share becomes one.

        Args:
            banks: Built with the same distance, pooling and kind of atoms.

        Raises:
            HeadstartError: There are no banks, or they differ in kind.
        """
        return cls(*merged([(bank.entries, bank.provenance) for bank in banks]))

    def find(
        self,
        kernel: Sequence[int],
        depth: float,
        depthwise: bool = False,
        layer: str | None = None,
        whole_channels: int | None = None,
    ) -> Entry | None:
        """Find the entry that fits a layer best.

        Args:
            kernel: The layer's kernel size.
            depth: Its relative position among the network's convolutions of more than one tap, from 0 to 1.
            depthwise: Whether it is depthwise. Depthwise filters serve depthwise layers only.
            layer: Its qualified name.
            whole_channels: Its input channels per group, for an entry of whole filters; None for one of slices.

        Returns:
            The entry with that name, kernel and kind if there is one; otherwise the entry of the nearest depth (the
            first among equals) with this kernel and kind; None if there is none.
        """
        wanted = () if whole_channels is None else (whole_channels,)
        fitting = [
            entry
            for entry in self.entries
            if entry.depthwise == depthwise and tuple(entry.centroids.shape[1:]) == (*wanted, *kernel)
        ]
        fitting = [entry for entry in fitting if entry.whole == (whole_channels is not None)]
        named = [entry for entry in fitting if layer and entry.layer == layer]
        return min(named or fitting, key=lambda entry: abs(entry.depth - depth), default=None)

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write a safetensors file.

        Args:
            path: The file to write.
            half: Store centroids and deviations in half precision.

        Raises:
            HeadstartError: It cannot be written.
        """
        storage.write(path, self.entries, self.provenance, half=half)

    @classmethod
    def load(cls, path: str | Path) -> FilterBank:
        """Read a bank that :meth:`save` wrote, or one that comes with the package.

        Args:
            path: A file, or a shipped name such as ``"cifar10-resnets"``.

        Raises:
            HeadstartError: There is no such bank, or it is damaged or of another format.
        """
        return cls(*storage.read(storage.locate(path)))

    def summary(self) -> Summary:
        """Return the bank as a table, for a terminal, a notebook or a page."""
        return Summary(self.title, self.entries, self.provenance)

    def plot(self) -> Figure:
        """Draw the centroids (needs the extra ``plot``).

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        with needs_extra(package="matplotlib", extra="plot", what="FilterBank.plot()"):
            from headstart.banks.plot import plot_bank
        return plot_bank(self.title, self.entries)

    @property
    def title(self) -> str:
        """The title of the bank."""
        return str(self.provenance.get("title") or "filter bank")

    @property
    def fingerprint(self) -> str:
        """A short hash of the clusters; it does not depend on where they are stored."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(repr((entry.kernel, entry.depth, entry.depthwise, entry.layer, entry.whole)).encode())
            for tensor in (entry.centroids, entry.deviations, entry.sizes):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary().to_html()

    def __repr__(self) -> str:
        return f"FilterBank({self.title!r}, {len(self)} entries, {self.fingerprint})"
