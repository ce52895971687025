"""Diagnosis of a start: measurements, rules, findings, figures.

Imports the rooms below the front door. The front door and the command line may import it.
"""
