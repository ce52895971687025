"""Data sets by name, files and folders. A file is opened only after its checksum was verified.

Imports `specs` and the ground. The tasks and the command line may import it.
"""
