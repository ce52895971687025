"""A filter bank: clusters of trained filters, layer by layer or pooled, that new networks are filled from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.banks import storage
from headstart.banks.entry import Entry
from headstart.errors import HeadstartError


@dataclass(frozen=True, eq=False, repr=False)
class FilterBank:
    """Clusters of the filters of trained networks, and where they came from.

    Args:
        entries: One per layer, or per kind of layer.
        provenance: Sources, distance, clusters, seed, versions, licence, command, title; ready for JSON.

    Raises:
        HeadstartError: No entries.
    """

    entries: tuple[Entry, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.entries:
            raise HeadstartError("A filter bank needs at least one entry.")

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
            depth: Its place among the network's convolutions of more than one tap, from 0 to 1.
            depthwise: Whether it is depthwise. Depthwise filters serve depthwise layers only.
            layer: Its qualified name.
            whole_channels: Its input channels per group, for an entry of whole filters; None for one of slices.

        Returns:
            The entry of that name, kernel and kind if there is one; or else that of the nearest depth (the
            first of equals) with this kernel and kind; None if there is none.
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
            path: Where to.
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
            HeadstartError: There is none, or it is damaged or of another format.
        """
        return cls(*storage.read(storage.locate(path)))

    @property
    def title(self) -> str:
        """What the bank calls itself."""
        return str(self.provenance.get("title") or "filter bank")

    @property
    def fingerprint(self) -> str:
        """A short hash of the clusters, the same wherever they are stored."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(repr((entry.kernel, entry.depth, entry.depthwise, entry.layer, entry.whole)).encode())
            for tensor in (entry.centroids, entry.deviations, entry.sizes):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"FilterBank({self.title!r}, {len(self)} entries, {self.fingerprint})"
