"""What calls return, and how it is shown and kept: reports, tables, pictures of filters, plain values, whole files.

Imports nothing of the package but the ground. Every room above may import it.
"""
