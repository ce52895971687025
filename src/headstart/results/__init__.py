"""What calls return, how it is shown and how it is saved: reports, tables, pictures of filters, JSON, files.

Imports nothing of the package but the ground. Every room above may import it.
"""
