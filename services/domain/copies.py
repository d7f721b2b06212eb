"""Changed copies of frozen dataclasses."""

from dataclasses import fields
from functools import cache
from typing import TypeVar

T = TypeVar("T")


def replace(one: T, **changes: object) -> T:
    """As `dataclasses.replace`, in a tenth of its time: every event of a run replaces its state several times.

    For classes without slots and without `__post_init__`, which is not called. Raises TypeError for a field that there
    is not.
    """
    kind: type = type(one)
    if not changes.keys() <= _names(kind):
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(changes.keys() - _names(kind)))}")
    new: T = object.__new__(type(one))
    vars(new).update(vars(one), **changes)
    return new


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))
