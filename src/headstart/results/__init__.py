"""What calls return, and how it is shown: reports, tables, pictures of filters.

Imports nothing of the package but the ground. Every room above may import it.
"""
