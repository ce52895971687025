"""Callbacks that start a model inside other trainers: one module per host. Import the one you need.

They may import the front door (`headstart.distributed`, `headstart.api`) and what lies below it, and their own host.
Nothing else in the package may import them, so that the rest never needs a host.
"""
