"""The table of mixers: measured trainings of a whole lattice of architectures, to query and to simulate searches on."""

from services.table.table import Choice, NotMeasured, Observation, Search, Table, Trace

__all__ = ["Choice", "NotMeasured", "Observation", "Search", "Table", "Trace"]
