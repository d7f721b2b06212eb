"""The presentation of a run, computed from the archive's records: rows, claims, costs, figures and the report's page.

Functions take the run's status and its candidates and return values, sentences or files; `page` writes the report.
Nothing here connects to a service, starts a training or prints; importing the figures needs matplotlib.
"""
