"""The lattice: all valid combinations of a few values for each dimension of a mixer, in one block per write rule.

A cell's name lists its values in the order of DIMENSIONS, as in `delta.mamba.sigmoid.silu.l2.qkv.swish.none.rms`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

from services.mixers.description import CATALOGUE, Features, Inputs, Memory, Mixer, Output
from services.mixers.moves import LIBRARY

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
    """One architecture of the lattice: its values by dimension, and its mixer."""

    values: tuple[str, ...]
    mixer: Mixer
    structure: str

    @property
    def name(self) -> str:
        """The values joined by dots, with `plain` for no convolution."""
        return ".".join(value or "plain" for value in self.values)


@cache
def cells() -> tuple[Cell, ...]:
    """All cells in the order of their values."""
    result = []
    for block in _BLOCKS:
        for values in product(*(block[name] for name in DIMENSIONS)):
            mixer = _mixer(dict(zip(DIMENSIONS, values, strict=True)))
            result.append(Cell(values, mixer, mixer.structure()))
    return tuple(result)


def find(architecture: Mixer | str) -> Cell:
    """The cell of a mixer, a structure, a cell's name or a name of the catalogue. Raises ValueError."""
    mixer = CATALOGUE.get(architecture) if isinstance(architecture, str) else architecture
    key = architecture if mixer is None else mixer.structure()
    cell = _by_key().get(str(key))
    if cell is None:
        text = architecture if isinstance(architecture, str) else architecture.model_dump_json()
        raise ValueError(f"the table has no architecture {text!r}; give one of the lattice, such as {cells()[0].name}")
    return cell


@cache
def neighbours(structure: str) -> tuple[Cell, ...]:
    """The cells that differ in one value, or in the rule, where values that its block lacks become its first ones."""
    values = _by_key()[structure].values
    own, other = sorted(_BLOCKS, key=lambda block: values[0] not in block["rule"])
    near = [
        _by_values()[(*values[:index], value, *values[index + 1 :])]
        for index, choices in enumerate(own.values())
        for value in choices
        if value != values[index]
    ]
    converted = [
        value if value in choices else choices[0] for value, choices in zip(values, other.values(), strict=True)
    ]
    return (*near, _by_values()[tuple(converted)])


def cell_with(values: Mapping[str, str]) -> Cell | None:
    """The cell with these values by dimension, if there is one."""
    return _by_values().get(tuple(values[name] for name in DIMENSIONS))


def moves_between(before: str, after: str) -> Iterator[str]:
    """Names of the moves that turn the first cell into the second."""
    mixer, structure = find(before).mixer, find(after).structure
    for move in LIBRARY:
        child = move.apply(mixer)
        if child is not None and child.structure() == structure:
            yield move.name


@cache
def _by_values() -> Mapping[tuple[str, ...], Cell]:
    return {cell.values: cell for cell in cells()}


@cache
def _by_key() -> Mapping[str, Cell]:
    """The cells by their mixers' structures and by their names."""
    return {key: cell for cell in cells() for key in (cell.structure, cell.name)}


def _mixer(values: Mapping[str, str]) -> Mixer:
    return Mixer(
        inputs=Inputs.model_validate({"convolved": values["convolved"]}),
        features=Features.model_validate({"map": values["map"], "norm": values["norm"]}),
        memory=Memory.model_validate({name: values[name] for name in ("rule", "decay", "write")}),
        output=Output.model_validate({"gate": values["gate"], "skip": values["skip"], "norm": values["output_norm"]}),
    ).canonical()
