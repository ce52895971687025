"""One trial: its arm, start, training and budget, and the settings that the machine decides.

Imports tasks, models and store. Runs and everything above may import it.
"""
