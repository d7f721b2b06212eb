"""Reads the archive that the authors of ASI-Arch published: `tree.json` and `106.json` (any .json list of records).

Records are known by their index; names repeat. A cell that says nan was not measured and is left out. A parent that
does not exist, a cycle or an index that comes twice is refused with the offending indices, before anything is imported.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.domain import lineage

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_AVERAGED = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "social_iqa", "winogrande")
"""The tasks whose accuracies the paper's tables average."""


class BadArchive(ValueError):  # noqa: N818
    """The files cannot be imported as they are; the message names what is wrong and where."""


@dataclass(frozen=True)
class Published:
    """One record. Absent is None or empty; `curve` is (step, training loss), `benchmarks` task → value."""

    index: int
    name: str
    parent: int | None
    score: float | None
    program: str = ""
    motivation: str = ""
    summary: str = ""
    parameters: int | None = None
    curve: tuple[tuple[int, float], ...] = ()
    benchmarks: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_accuracy(self) -> float | None:
        """The paper's average; None unless all its tasks have an accuracy from 0 to 1."""
        values = [self.benchmarks.get(task) for task in _AVERAGED]
        known = [value for value in values if value is not None and 0 <= value <= 1]
        return math.fsum(known) / len(known) if len(known) == len(_AVERAGED) else None


@dataclass(frozen=True)
class Archive:
    """Records with parents before children, and what was left out, a sentence each."""

    records: tuple[Published, ...]
    left_out: tuple[str, ...]


def read(path: Path, skip_bad: bool = False) -> Archive:
    """Read a folder with `tree.json` and a file of details, or one of the two files.

    Raises BadArchive; with `skip_bad` bad records are left out instead and listed.
    """
    raw = _raw_records(path)
    problems: list[str] = []
    parsed = _unique(_parsed(raw, problems), problems)
    sound = _sound(parsed, problems)
    if problems and not skip_bad:
        more = f" (and {len(problems) - 10} more)" if len(problems) > 10 else ""
        raise BadArchive("; ".join(problems[:10]) + more + ". Nothing was imported; --skip-bad takes the rest.")
    if not sound:
        raise BadArchive(f"{path} holds no record that can be imported.")
    return Archive(tuple(sound[index] for index in lineage_order(sound)), tuple(problems))


def lineage_order(records: Mapping[int, Published]) -> list[int]:
    """Indices with every parent before its children, else in their own order."""
    depth = lineage.depths(
        {str(one.index): None if one.parent is None else str(one.parent) for one in records.values()}
    )
    return sorted(records, key=lambda index: (depth[str(index)], index))


def _raw_records(path: Path) -> list[dict[str, object]]:
    """All records of the files; those of the details file win over the tree's slim ones."""
    if not path.exists():
        raise BadArchive(f"there is no file or folder {path}")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BadArchive(f"{path} holds no .json file: it needs tree.json and the file of details")
    slim: list[dict[str, object]] = []
    detailed: list[dict[str, object]] = []
    for file in files:
        content = _json(file)
        results = content.get("results") if isinstance(content, dict) else content
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise BadArchive(f'{file} is neither {{"results": [...]}} nor a list of records')
        (slim if isinstance(content, dict) else detailed).extend(results)
    known = {json.dumps(one.get("index")) for one in detailed}
    return [*(one for one in slim if json.dumps(one.get("index")) not in known), *detailed]


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArchive(f"{file} cannot be read as JSON: {error}") from None


def _parsed(raw: Iterable[dict[str, object]], problems: list[str]) -> list[Published]:
    records = []
    for place, one in enumerate(raw):
        try:
            records.append(_record(one))
        except ValueError as error:
            problems.append(f"record {one.get('index', f'number {place + 1}')}: {error}")
    return records


def _record(raw: Mapping[str, object]) -> Published:
    index = raw.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ValueError(f"index must be a whole number from 0, not {index!r}")
    parent = raw.get("parent")
    if parent is not None and (isinstance(parent, bool) or not isinstance(parent, int)):
        raise ValueError(f"parent must be an index or null, not {parent!r}")
    result = raw.get("result")
    tables = result if isinstance(result, Mapping) else {}
    return Published(
        index=index,
        name=str(raw.get("name_new") or raw.get("name") or f"record {index}"),
        parent=parent,
        score=_finite(raw.get("score"), "score"),
        program=str(raw.get("program") or ""),
        motivation=str(raw.get("motivation") or ""),
        summary=str(raw.get("summary") or ""),
        parameters=_parameters(raw.get("parameters")),
        curve=tuple((int(float(step)), loss) for step, loss in _cells(tables.get("train"), "train") if _is_step(step)),
        benchmarks=dict(_cells(tables.get("test"), "test")),
    )


def _finite(value: object, field_name: str) -> float | None:
    """A number, None for nan and null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field_name} must be a number, not {value!r}")
    return float(value) if math.isfinite(value) else None


def _parameters(value: object) -> int | None:
    """As in "495.73M"; None where it is not given."""
    if value in (None, ""):
        return None
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMB]?)\s*", str(value), re.IGNORECASE)
    if match is None:
        raise ValueError(f"parameters must look like 495.73M, not {value!r}")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _cells(text: object, name: str) -> list[tuple[str, float]]:
    """The columns of a one-row table whose cell is a number; nan and empty ones are left out."""
    if text in (None, ""):
        return []
    rows = [row for row in csv.reader(str(text).splitlines()) if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        return []
    cells = []
    for title, cell in zip(rows[0][1:], rows[1][1:], strict=False):
        try:
            value = float(cell)
        except ValueError:
            if cell.strip():
                raise ValueError(f"{name}: the cell {cell!r} under {title!r} is not a number") from None
            continue
        if math.isfinite(value):
            cells.append((title.strip(), value))
    return cells


def _is_step(title: str) -> bool:
    try:
        float(title)
    except ValueError:
        return False
    return True


def _unique(records: Iterable[Published], problems: list[str]) -> dict[int, Published]:
    found: dict[int, Published] = {}
    for one in records:
        if one.index in found:
            problems.append(f"index {one.index} comes twice ({found[one.index].name} and {one.name})")
        else:
            found[one.index] = one
    return found


def _sound(records: Mapping[int, Published], problems: list[str]) -> dict[int, Published]:
    """Without orphans and cycles, and without what descends from them."""
    kept = dict(records)
    while orphans := [one for one in kept.values() if one.parent is not None and one.parent not in kept]:
        for one in orphans:
            known = "left out" if one.parent in records else "unknown"
            problems.append(f"record {one.index}: its parent {one.parent} is {known}")
            del kept[one.index]
    for index in _cyclic(kept):
        problems.append(f"record {index} descends from itself")
        del kept[index]
    return _sound(kept, problems) if any(one.parent not in (None, *kept) for one in kept.values()) else kept


def _cyclic(records: Mapping[int, Published]) -> list[int]:
    """Records from which the way up never ends."""
    ends: dict[int, bool] = {}
    for start in records:
        way: list[int] = []
        here: int | None = start
        while here is not None and here not in ends and here not in way:
            way.append(here)
            here = records[here].parent
        fine = here is None or (here in ends and ends[here])
        ends.update(dict.fromkeys(way, fine))
    return [index for index, fine in ends.items() if not fine]
