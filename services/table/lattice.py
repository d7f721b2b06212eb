"""The lattice: every sound combination of a few values for each part of a mixer.

Two blocks, one for each write rule. The order of the dimensions is the order of the coordinates in a cell's name, for
example `delta.mamba.sigmoid.silu.l2.qkv.swish.none.rms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import MappingProxyType

from services.mixers.description import CATALOGUE, Features, Inputs, Memory, Mixer, Output
from services.mixers.moves import LIBRARY

VERSION = 1
DIMENSIONS = ("rule", "decay", "write", "map", "norm", "convolved", "gate", "skip", "output_norm")

_BLOCKS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {
        "rule": ("delta",),
        "decay": ("none", "retention", "mamba", "sigmoid"),
        "write": ("one", "sigmoid", "double"),
        "map": ("silu", "identity", "elu"),
        "norm": ("l2",),
        "convolved": ("", "qkv"),
        "gate": ("none", "swish"),
        "skip": ("none", "gated"),
        "output_norm": ("rms", "none"),
    },
    {
        "rule": ("linear",),
        "decay": ("none", "retention", "mamba", "sigmoid", "channel", "floored"),
        "write": ("one", "sigmoid"),
        "map": ("silu", "identity", "elu"),
        "norm": ("l2", "none"),
        "convolved": ("", "qkv"),
        "gate": ("none", "swish"),
        "skip": ("none", "gated"),
        "output_norm": ("rms",),
    },
)


@dataclass(frozen=True)
class Cell:
    """One architecture of the lattice: its values by dimension, and what they describe."""

    values: tuple[str, ...]
    mixer: Mixer
    structure: str

    @property
    def name(self) -> str:
        """The coordinates in one word; no convolution is written `plain`."""
        return ".".join(value or "plain" for value in self.values)


@cache
def cells() -> tuple[Cell, ...]:
    """All cells in the order of their coordinates."""
    made = []
    for block in _BLOCKS:
        for values in product(*(block[name] for name in DIMENSIONS)):
            mixer = _mixer(dict(zip(DIMENSIONS, values, strict=True)))
            made.append(Cell(values, mixer, mixer.structure()))
    return tuple(made)


@cache
def by_structure() -> Mapping[str, Cell]:
    """Every cell by its mixer's structure."""
    return MappingProxyType({cell.structure: cell for cell in cells()})


def find(architecture: Mixer | str) -> Cell:
    """The cell of a mixer, of a structure, of a cell's name or of a name of the catalogue.

    Raises ValueError where the lattice has no such architecture.
    """
    mixer = CATALOGUE.get(architecture) if isinstance(architecture, str) else architecture
    key = architecture if mixer is None else mixer.structure()
    cell = by_structure().get(str(key)) or _by_name().get(str(key))
    if cell is None:
        named = architecture if isinstance(architecture, str) else architecture.to_json()
        raise ValueError(
            f"the table has no architecture {named!r}; name a mixer of the lattice, such as {cells()[0].name}"
        )
    return cell


@cache
def neighbours(structure: str) -> tuple[Cell, ...]:
    """The cells that differ from one in the value of a single dimension, or in the rule and what it needs.

    A change of rule keeps all other values where the other rule knows them; a value that it lacks becomes its first.
    """
    cell = by_structure()[structure]
    own_block = next(block for block in _BLOCKS if cell.values[0] in block["rule"])
    near = [
        _by_values()[(*cell.values[:place], value, *cell.values[place + 1 :])]
        for place, allowed in enumerate(own_block.values())
        for value in allowed
        if value != cell.values[place]
    ]
    other_block = next(block for block in _BLOCKS if cell.values[0] not in block["rule"])
    values = [
        value if value in block else block[0] for value, block in zip(cell.values, other_block.values(), strict=True)
    ]
    return (*near, _by_values()[tuple(values)])


def cell_with(values: Mapping[str, str]) -> Cell | None:
    """The cell with a value for each dimension; None where the lattice has no such cell."""
    return _by_values().get(tuple(values[name] for name in DIMENSIONS))


def moves_between(before: str, after: str) -> Iterator[str]:
    """Names of the moves that make the second cell of the first."""
    mixer, structure = find(before).mixer, find(after).structure
    for move in LIBRARY:
        child = move.apply(mixer)
        if child is not None and child.structure() == structure:
            yield move.name


@cache
def _by_values() -> Mapping[tuple[str, ...], Cell]:
    return MappingProxyType({cell.values: cell for cell in cells()})


@cache
def _by_name() -> Mapping[str, Cell]:
    return MappingProxyType({cell.name: cell for cell in cells()})


def _mixer(values: Mapping[str, str]) -> Mixer:
    return Mixer(
        inputs=Inputs.model_validate({"convolved": values["convolved"]}),
        features=Features.model_validate({"map": values["map"], "norm": values["norm"]}),
        memory=Memory.model_validate({name: values[name] for name in ("rule", "decay", "write")}),
        output=Output.model_validate({"gate": values["gate"], "skip": values["skip"], "norm": values["output_norm"]}),
    ).canonical()
