"""The report: one self-contained HTML file about a probing run, and its figures as data."""

from fit3d_finetune.report.page import write_report as write_report
