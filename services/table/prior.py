"""What the shipped table lets a search expect of any mixer."""

from functools import cache

from services.mixers.surrogate import Prior, prior_from
from services.table.lattice import find
from services.table.table import Table


@cache
def table_prior() -> Prior:
    """The predictions of the offline mind's model from all of the table's architectures; made once, in a second."""
    truth = Table.load().truth
    return prior_from([find(name).mixer for name in truth], [-loss for loss in truth.values()])
