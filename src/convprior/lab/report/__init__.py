"""The report: one self-contained HTML file that says what a study found, and what it did not.

:func:`write_study_report` reads a study's folder and writes everything into it: the tables as
text, CSV and JSON, and ``report.html`` with charts as inline SVG. It runs no training.
"""

from convprior.lab.report.write import Written, write_report, write_study_report

__all__ = ["Written", "write_report", "write_study_report"]
