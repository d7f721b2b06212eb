"""A description without one of its components: the nearest one that lacks it, found by trying every small change."""

from collections.abc import Iterator
from itertools import product
from types import NoneType
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from services.mixers.components import components_of
from services.mixers.description import Mixer

FORM = frozenset({"chunkwise-form"})
"""How a mixer is computed, not what it computes: there is nothing to leave out."""

Change = tuple[str, str, object]
"""A part of the mixer, a field of it, and the field's new value."""


def without(mixer: Mixer, component: str) -> tuple[Mixer, tuple[str, ...]] | None:
    """The nearest sound description without ``component`` and what was changed, in words; None where there is none.

    Nearest: it gains the fewest other components, then needs the fewest changes, then loses the fewest others.
    """
    mixer = mixer.settled()
    had = set(components_of(mixer))
    if component not in had or component in FORM:
        return None
    changes = list(_changes(mixer))
    singles: list[tuple[Change, ...]] = [(change,) for change in changes]
    pairs: list[tuple[Change, ...]] = [pair for pair in product(changes, repeat=2) if pair[0][:2] < pair[1][:2]]
    found: list[tuple[tuple[int, ...], tuple[Change, ...], Mixer]] = []
    for one in singles + pairs:
        changed = _changed(mixer, one)
        if changed is None or component in (has := set(components_of(changed))):
            continue
        cost = (len(has - had), len(one), len(had - has), sum(not _is_default(change) for change in one))
        if cost[:3] == (0, 1, 1):
            return changed, _told(mixer, one)
        found.append((cost, one, changed))
    if not found:
        return None
    _, best, changed = min(found, key=lambda one: (one[0], str(one[1])))
    return changed, _told(mixer, best)


def _changes(mixer: Mixer) -> Iterator[Change]:
    """Every other value of every field with a list of values, and the paths fewer."""
    for part in ("inputs", "features", "memory", "fusion", "output"):
        own = getattr(mixer, part)
        for field, info in type(own).model_fields.items():
            for value in sorted(_values(info), key=lambda value: (value != info.default, str(value))):
                if value != getattr(own, field):
                    yield part, field, value
    for path in mixer.paths:
        yield "paths", "", tuple(one for one in mixer.paths if one != path)
    if len(mixer.paths) > 1:
        yield "paths", "", ()


def _values(info: FieldInfo) -> tuple[object, ...]:
    annotation = info.annotation or NoneType
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return (True, False) if annotation is bool else ()


def _changed(mixer: Mixer, changes: tuple[Change, ...]) -> Mixer | None:
    parts: dict[str, object] = {}
    for part, field, value in changes:
        if part == "paths":
            parts[part] = value
        else:
            own = parts.get(part, getattr(mixer, part))
            assert isinstance(own, BaseModel)  # noqa: S101 - all parts but the paths are
            parts[part] = own.model_copy(update={field: value})
    try:
        return Mixer.model_validate(mixer.model_copy(update=parts).model_dump()).settled()
    except ValidationError:
        return None


def _is_default(change: Change) -> bool:
    part, field, value = change
    return part == "paths" or getattr(getattr(Mixer(), part), field) == value or value in ("none", "", False)


def _told(mixer: Mixer, changes: tuple[Change, ...]) -> tuple[str, ...]:
    return tuple(_words(mixer, *change) for change in changes)


def _words(mixer: Mixer, part: str, field: str, value: object) -> str:
    if part == "paths":
        left = {path.kind for path in value} if isinstance(value, tuple) else set()
        return f"the paths {', '.join(path.kind for path in mixer.paths if path.kind not in left)} are left out"
    return f"{part}.{field} is {value!r} instead of {getattr(getattr(mixer, part), field)!r}"
