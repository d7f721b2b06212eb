"""Explains judged candidates and serves the cognition base.

An analysis compares a candidate with its relatives and with what the literature says; a language model or measured
differences alone write it. Scores are the judge's, and what is built next is the researcher's business.
"""
