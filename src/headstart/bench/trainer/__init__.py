"""A user's own command as the trainer: what each trial writes for it, runs, and reads back.

Imports what runs need and lies below them; the settings and the report read it. It never imports the command line.
"""
