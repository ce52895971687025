"""Report layers whose new filters span far fewer directions than random ones."""

from __future__ import annotations

from headstart.engine.model_view import ModelView
from headstart.methods.shared.spatial import is_depthwise
from headstart.model import weights
from headstart.numerics.rank import effective_rank, random_rank

MOST = 256  # filters that are looked at
FAR_BELOW = 0.75  # of the effective rank of random filters


def tell_narrow(view: ModelView, advice: str = "") -> None:
    """Report the layers whose filters, or slices, span far fewer directions than random ones.

    With few forms of filters, a dense layer has few features to combine. Depthwise layers are left out: a few smooth
    forms are intended there.

    Args:
        view: The model, after the walk.
        advice: What to do about it, after a semicolon.
    """
    told = []
    for layer in view.layers:
        row = view.report.rows[layer.name]
        if view.method not in row.methods or is_depthwise(layer):
            continue
        weight = weights.read(layer)
        filters = weight.flatten(1)
        pairs = [("filters", filters[:: -(-len(filters) // MOST)]), ("slices", weight.flatten(2).flatten(0, 1))]
        found = [(what, effective_rank(rows), random_rank(*rows.shape)) for what, rows in pairs]
        narrow = [f"{what} {rank:.2g} of {usual:.2g}" for what, rank, usual in found if rank < FAR_BELOW * usual]
        if narrow:
            row.notes.append(f"effective rank: {', '.join(narrow)}")
            told.append((layer.name, narrow))
    if told:
        name, narrow = told[-1]
        view.report.add_finding(
            f"{view.method}: in {len(told)} layer{'s' * (len(told) > 1)} the new weights span far fewer directions"
            f" than random ones (effective rank in '{name}': {', '.join(narrow)}), and the final accuracy may be"
            f" lower{advice}."
        )
