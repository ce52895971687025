"""The performance profile: the share of runs, over all experiments, in which a method gains at least a given amount."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.bench.report.overview import MethodRows, Overview
from headstart.bench.report.svg import HUES, INK, clean, figure, style, to_svg
from headstart.bench.statistics.paired import Floats

_SHOWN = len(HUES) - 1
_REACH = 95.0  # percent of all differences, which the frame holds


def profiled(overview: Overview) -> list[MethodRows]:
    """List the methods that get a curve: the first seven with two experiments or more."""
    return [method for method in overview.methods if len(method.compared) > 1][:_SHOWN]


def share_above(experiments: Sequence[Sequence[float]], thresholds: Floats) -> Floats:
    """Return the share of runs whose difference is at least each threshold; every experiment has the same weight.

    Args:
        experiments: Differences of each experiment.
        thresholds: ``(n,)``.

    Example:
        >>> share_above([[1.0, 3.0], [2.0]], np.array([0.0, 2.0, 2.5])).tolist()
        [1.0, 0.75, 0.25]
    """
    shares = [np.mean(np.asarray(found)[:, None] >= thresholds, axis=0) for found in experiments]
    return np.asarray(np.mean(shares, axis=0), dtype=np.float64)


def performance_profile(overview: Overview) -> str:
    """Draw a falling curve for each method: the share of runs that gain at least that many points.

    A curve further right and higher is better. Its height at the vertical line at zero is the share of runs that the
    method wins.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    methods = profiled(overview)
    differences = [[row.comparison.differences for row in method.compared if row.comparison] for method in methods]
    everything = np.abs(np.concatenate([np.asarray(one) for found in differences for one in found]))
    reach = max(float(np.percentile(everything, _REACH)), 1e-6)
    thresholds = np.linspace(-reach, reach, 401)
    drawn = figure(10.2, 3.4)
    with style():
        axes = drawn.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for index, (method, found) in enumerate(zip(methods, differences, strict=True)):
            curve = 100 * share_above(found, thresholds)
            axes.plot(thresholds, curve, color=HUES[1 + index], linewidth=2, label=clean(method.label, 38))
        axes.set_ylim(-2, 102)
        axes.set_xlabel("difference in test accuracy, points")
        axes.set_title("Share of runs that gain at least so much, %")
        axes.legend(frameon=False, loc="upper right")
        return to_svg(
            drawn,
            "profile",
            "Performance profile: for each method the share of runs, over all its experiments, whose difference in "
            "test accuracy is at least that on the axis",
        )
