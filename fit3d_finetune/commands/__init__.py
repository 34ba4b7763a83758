"""Command lines. What takes long to import is imported once the line is read."""
