"""What one pass shows of a layer: patches, probes, gradients. Imports model and what is below it; methods and everything above may import it."""
