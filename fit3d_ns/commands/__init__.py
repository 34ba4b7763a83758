"""Command lines of what knows nerfstudio. What takes long to import is imported once the line is read."""
