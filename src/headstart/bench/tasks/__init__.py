"""Tasks: data, splits, batches, augmentation. Imports specs; trials and everything above may import it."""
