"""Folders on object storage: read in parts, kept in a bounded cache, written whole or not at all."""
