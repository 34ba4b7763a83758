"""The 2D backbone and its features: weights, cache on disk, patch grid, decoders, losses."""
