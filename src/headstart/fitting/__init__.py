"""Training on samples: draws, classification, stages, curves. Imports model and what is below it; methods and everything above may import it."""
