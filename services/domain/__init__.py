"""The pure rules of the system: run policy, pool, promotion, fitness, discovery, statistics, program structure.

Data, time and randomness come in as arguments, so that every rule can be tested without a fake. No input or output, no
messages, no torch and no clock live here; services turn records into these types and decisions into events.
"""
