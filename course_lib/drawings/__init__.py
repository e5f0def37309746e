"""Schematic drawings of how each method works: one module per paper, and the shapes that all of them are made of."""
