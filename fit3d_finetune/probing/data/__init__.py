"""What probes are trained and tested on, and its cached features."""
