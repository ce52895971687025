"""Callbacks that start a model inside the trainers that people use, one module per host, each imported by hand alone.

They may import the front door (`headstart.distributed`, `headstart.api`) and what lies below it, and each its own host;
nothing of the package may import them, so that no host is ever needed to use the rest.
"""
