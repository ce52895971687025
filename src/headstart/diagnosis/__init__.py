"""What is wrong with a start: measurements, rules, findings, their picture.

Imports the rooms below the front door. The front door and the command line may import it.
"""
