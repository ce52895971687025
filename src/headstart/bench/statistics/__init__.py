"""From paired differences to numbers and verdicts: pure functions. Imports nothing else of the benchmark; analysis and report may import it."""
