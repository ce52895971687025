"""Training on samples: which samples, the loop, its stages, its curves.

Imports `model` and what lies below it. The engine, the methods and everything above may import it.
"""

from headstart.fitting.classify import Classify

__all__ = ["Classify"]
