"""Moments, clustering and principal directions of plain tensors. Knows no model; imports the ground alone, and anyone may import it."""
