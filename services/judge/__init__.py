"""The judge scores each trained candidate and computes its fitness, published as candidate.judged.

A rubric, applied to measurements or by a language model, compares the candidate with the measured baselines of its run
and stage. Fitness formulas are in services/domain/fitness.py; training and checks are in the engineer, selection in the
store.
"""
