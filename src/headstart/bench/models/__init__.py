"""Models by name: the package's own, torchvision's, timm's, the user's.

Imports `specs` and the ground. Trials and everything above may import it.
"""
