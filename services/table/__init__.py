"""The table of mixers: measured trainings of a whole lattice of architectures, to query and to simulate searches on.

It reads the shipped measurements, answers for single cells and compares search policies without training anything.
Cells are trained by `services/engineer/table.py`; descriptions and programs come from `services/mixers`.
"""

from services.table.table import Choice, NotMeasured, Observation, Search, Table, Trace

__all__ = ["Choice", "NotMeasured", "Observation", "Search", "Table", "Trace"]
