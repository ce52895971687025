"""Data sets by name, files and folders; a file is opened only after its checksum matched.

Imports `specs` and the ground. The tasks and the command line may import it.
"""
