"""Trials as files: what is finished, what is claimed, what is exported.

Imports the ground alone. Trials, runs, analysis and report may import it.
"""
