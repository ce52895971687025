"""Pages from templates: escaped, self-contained, in one style."""

from __future__ import annotations

import importlib.resources
import math
from typing import Any

from headstart.bench.report.summary import span
from headstart.bench.statistics.metric import ACCURACY, Metric
from headstart.bench.statistics.verdicts import p_text
from headstart.errors import needs_extra
from headstart.results.display import printable


def fill(name: str, /, **values: Any) -> str:
    """Fill a template of this package. Values are escaped; undefined names are errors.

    Args:
        name: The template, such as ``"report.html.jinja"``.
        **values: The values to print. Figures are marked as safe by :func:`drawing`.

    Returns:
        The page as a string. It refers to nothing outside itself and runs no script.

    Raises:
        MissingExtraError: If Jinja2 is not installed.
    """
    jinja2 = engine()
    folder = importlib.resources.files("headstart.bench.report").joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda wanted: folder.joinpath(wanted).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": _signed,
        "number": _number,
        "p": p_text,
        "span": span,
    }
    return environment.get_template(name).render(**values)


def engine() -> Any:
    """Return the template engine.

    Raises:
        MissingExtraError: If Jinja2 is not installed.
    """
    with needs_extra(package="jinja2", extra="bench", what="The report page"):
        import jinja2
    return jinja2


def drawing(svg: str) -> Any:
    """Mark one of our own figures, whose labels are escaped, as safe to print without escaping."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


def _finalize(value: Any) -> Any:
    """Clean every string that a template prints, except our own figures."""
    return printable(value) if type(value) is str else value


def _signed(value: float, metric: Metric = ACCURACY) -> str:
    return metric.signed(value)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}".replace("-", "\u2212")
