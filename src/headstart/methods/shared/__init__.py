"""What several methods share: first convolutions, look-ups in banks, which layers are left.

Imports the rooms below the methods. The methods alone may import it.
"""
