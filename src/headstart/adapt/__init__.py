"""First layers for other numbers of input channels.

Imports the engine and what lies below it. The front door and the command line may import it.
"""
