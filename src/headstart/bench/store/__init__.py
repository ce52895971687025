"""Trials as files: finished, claimed, exported.

Imports only the ground. Trials, runs, analysis and report may import it.
"""
