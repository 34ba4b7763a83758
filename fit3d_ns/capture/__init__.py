"""Captures as users bring them: their checks, images and lenses."""
