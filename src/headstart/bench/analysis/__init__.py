"""From stored trials to comparisons. Imports runs, statistics and store; report and papers may import it."""
