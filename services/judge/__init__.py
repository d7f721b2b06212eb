"""The judge: an opinion on each trained candidate and its fitness, published as candidate.judged.

It compares a candidate with the measured baselines of its run and stage, by a rubric that is computed from measurements
or put to a language model. How fitness is computed is in services/domain/fitness.py; training, checks and selection
are in the engineer and the store.
"""
