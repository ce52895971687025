"""A user's command as the trainer: each trial writes its start, runs the command, and reads its score.

Imports what runs need; the settings and the report import it. It never imports the command line.
"""
