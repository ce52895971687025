"""One trial: arm, start, training, budget, and what the machine decides. Imports tasks, models and store; runs may import it."""
