"""How methods run: what a method is, the registry, the visit of a layer, the view of a model, the walk.

Imports `measure`, `fitting`, `banks`, `model` and what lies below. Adaptation, symmetries, methods and everything above
may import it.
"""
