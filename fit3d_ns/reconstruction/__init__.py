"""Cameras and sparse points of photos and videos (structure from motion by pycolmap), and whether they can be trusted."""
