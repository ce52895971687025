"""Figures as inline SVG, with the page's light or dark colours."""

from __future__ import annotations

import html
import io
import re
import warnings
from typing import TYPE_CHECKING, Any

from headstart.errors import needs_extra
from headstart.results.display import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that never appear otherwise stand for the page's own, which differ between light and dark.
INK, FAINT, PAPER = "#010101", "#020202", "#030303"
HUES = tuple(f"#0401{index:02x}" for index in range(8))
STATES = {name: f"#0501{index:02x}" for index, name in enumerate(("good", "bad", "open", "flat"))}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headstart",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
}


def figure(width: float, height: float) -> Figure:
    """Make an empty figure.

    Args:
        width: The width in inches; an inch is 72 units in the SVG.
        height: The height in inches.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with needs_extra(package="matplotlib", extra="bench", what="A figure of the report"):
        from matplotlib.figure import Figure
    with style():
        return Figure(figsize=(width, height), layout="constrained")


def style() -> Any:
    """Return the context in which to draw."""
    import matplotlib

    settings: Any = _STYLE  # matplotlib types the names of its settings one by one
    return matplotlib.rc_context(settings)


def to_svg(drawn: Figure, name: str, title: str) -> str:
    """Write a figure as an SVG element for a page: no outer document, own ids, the page's colours and font."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text in the file: that our own font lacks a sign matters to the layout alone.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from (current )?font", category=UserWarning)
        FigureCanvasSVG(drawn).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', lambda match: f"{match[1]}{name}-", text)
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title, quote=True)}"', 1)
    colours = {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--paper)"}
    colours |= {value: f"var(--hue-{index})" for index, value in enumerate(HUES)}
    colours |= {value: f"var(--{name})" for name, value in STATES.items()}
    for sentinel, variable in colours.items():
        text = text.replace(sentinel, variable)
    return text


def clean(label: str, longest: int = 48) -> str:
    """Replace characters that XML cannot hold, and cut long texts."""
    plain = printable(label).replace("\n", " ")
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"
