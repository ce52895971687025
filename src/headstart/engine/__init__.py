"""How methods run: what a method is, the grammar of specs, the registry, visits, views of a model, the walk.

Imports `measure`, `fitting`, `banks`, `model` and what lies below. Adaptation, symmetries, methods and everything above
may import it.
"""
