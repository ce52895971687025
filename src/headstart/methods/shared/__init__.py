"""What several methods share: first convolutions, look-ups in banks, which layers are left.

Imports the rooms below the methods. The methods alone may import it.
"""

from headstart.methods.shared.first_convolution import first_convolutions
from headstart.methods.shared.spatial import spatial_convolutions

__all__ = ["first_convolutions", "spatial_convolutions"]
