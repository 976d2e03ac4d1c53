"""Figures, tables and the HTML report. Needs no torch; matplotlib is imported with ``report.figures``."""
