"""Why start on a small sample? Ackley's function, with many local minima, from a coarse mesh to a fine one.

The function is known at the vertices of a mesh and linear between them, as a loss is known from samples. Minimizing on
the fine mesh (100 x 100) often ends in a local minimum near where it began. Minimizing on a coarse mesh (8 x 8) first,
and going on from there, nearly always ends in the central basin. How often, is counted here over 200 random starts.

It is an illustration: whether networks behave so is for `headstart compare` to tell.

Run: python examples/ackley.py [figure.png]
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.optimize import minimize
from scipy.spatial import Delaunay

Points = NDArray[np.float64]
SIDE = 1.5  # the square from -1.5 to 1.5
STARTS = 200
BASIN = 0.5  # closer to the centre than to the nearest ring of local minima, at about 0.97


def ackley(points: Points) -> Points:
    x, y = points[..., 0], points[..., 1]
    bowl = -20 * np.exp(-0.2 * np.sqrt(0.5 * (x**2 + y**2)))
    waves = -np.exp(0.5 * (np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y)))
    return np.asarray(bowl + waves + np.e + 20)


def mesh(vertices: int) -> LinearNDInterpolator:
    """The function on a grid of so many vertices a side, triangulated and linear in between."""
    axis = np.linspace(-SIDE, SIDE, vertices)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return LinearNDInterpolator(Delaunay(points), ackley(points))


def lowest(surface: LinearNDInterpolator, start: Points) -> Points:
    def value(point: Points) -> float:
        return float(surface(np.clip(point, -SIDE, SIDE))[0])

    found = minimize(value, start, method="L-BFGS-B", bounds=[(-SIDE, SIDE)] * 2)
    return np.asarray(found.x)


def main() -> None:
    coarse, fine = mesh(8), mesh(100)
    starts = np.random.default_rng(0).uniform(-SIDE, SIDE, (STARTS, 2))
    direct = np.array([lowest(fine, start) for start in starts])
    between = np.array([lowest(coarse, start) for start in starts])
    both = np.array([lowest(fine, start) for start in between])
    ends = {"on the fine mesh": direct, "on the coarse mesh, then on the fine one": both}
    for name, points in ends.items():
        reached = np.linalg.norm(points, axis=1) < BASIN
        print(f"{name}: {reached.sum()} of {STARTS} starts reach the central basin ({100 * reached.mean():.0f} %)")
    if len(sys.argv) > 1:
        draw(starts, ends).savefig(sys.argv[1], dpi=120)
        print(f"figure: {sys.argv[1]}")


def draw(starts: Points, ends: dict[str, Points]) -> Figure:
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    axis = np.linspace(-SIDE, SIDE, 200)
    ground = ackley(np.stack(np.meshgrid(axis, axis), -1))
    for place, (name, points) in enumerate(ends.items(), start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.contourf(axis, axis, ground, levels=20, cmap="Greys", alpha=0.6)
        reached = np.linalg.norm(points, axis=1) < BASIN
        for chosen, colour in ((reached, "#1f5fa8"), (~reached, "#b3541e")):
            for start, end in zip(starts[chosen], points[chosen], strict=True):
                axes.plot(*np.stack([start, end]).T, color=colour, linewidth=0.4, alpha=0.5)
            axes.plot(*points[chosen].T, ".", color=colour, markersize=5)
        axes.set_title(f"{name}:\n{reached.sum()} of {len(points)} reach the centre (blue)", fontsize=10)
        axes.set_aspect("equal")
    return figure


main()
