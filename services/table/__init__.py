"""A tabular benchmark: measured trainings of a lattice of mixers, for queries and simulated searches.

It reads the shipped measurements and compares search policies without training. `services/engineer/table.py` trains
cells; descriptions and programs are in `services/mixers`.
"""

from services.table.table import Choice, NotMeasured, Observation, Search, Table, Trace

__all__ = ["Choice", "NotMeasured", "Observation", "Search", "Table", "Trace"]
