"""The report: one self-contained HTML file about a probing run, and its figures as data."""
