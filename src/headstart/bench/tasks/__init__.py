"""Tasks: data, splits, batches on a device, augmentation.

Imports `specs` and the ground. Trials and everything above may import it.
"""
