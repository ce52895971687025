"""Models by name. Imports specs; trials and everything above may import it."""
