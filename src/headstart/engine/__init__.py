"""How methods run: method, registry, visit, view of the whole model, the walk and the streamed walk.

Imports model and what is below it; methods, symmetries and everything above may import it.
"""
