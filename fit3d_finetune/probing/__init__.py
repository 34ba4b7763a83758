"""Linear probes and consistency measures: what frozen features know, without touching the backbone."""
