"""Image data sets from their standard files: one module per layout on disk, converted once to mapped arrays."""
