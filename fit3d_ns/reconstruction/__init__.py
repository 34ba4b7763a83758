"""Structure from motion: cameras and sparse points of photos and videos, and whether they can be trusted."""
