"""What several methods share: first convolutions, bank look-ups, which layers are left.

Imports the rooms below the methods. Only methods may import it.
"""

from headstart.methods.shared.first_convolution import first_convolutions
from headstart.methods.shared.spatial import spatial_convolutions

__all__ = ["first_convolutions", "spatial_convolutions"]
