"""A catalogue of bad input to all commands, each answered in one sentence; see `catalogue.py`."""
