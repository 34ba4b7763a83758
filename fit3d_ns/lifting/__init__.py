"""Closed-form lifting: features of Gaussians as a sparse least-squares problem."""
