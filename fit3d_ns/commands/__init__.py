"""Command lines: fit3d-export and fit3d-lift."""
