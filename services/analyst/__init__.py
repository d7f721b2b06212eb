"""Explains judged candidates and serves the cognition base.

An analysis compares a candidate with its relatives and with the literature; a language model writes it, or rules that
read the measured differences. Scores belong to the judge, and the choice of the next experiment to the researcher.
"""
