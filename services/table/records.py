"""What one training adds to the table, and the files that hold it: JSON lines, compressed when shipped.

A builder only appends. A torn last line, left by a kill, is ignored and its training done again.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

SHIPPED = files(__package__) / "data"


@dataclass(frozen=True)
class Record:
    """One training of one cell. Losses are nats per byte on held-out text.

    `curve` holds (step, mean training loss since the last point, held-out loss or None), `heldout` the held-out loss
    at the named shares of the steps. A failed training has `failure` and no `loss`. `cpu_seconds` is the training
    child's own time, which other work on the machine changes little; `seconds` is wall-clock time, scoring included.
    """

    cell: str
    scale: str
    seed: int
    loss: float | None = None
    loss_stderr: float | None = None
    curve: tuple[tuple[int, float, float | None], ...] = ()
    parameters: int | None = None
    flops_per_token: float | None = None
    tokens_per_cpu_second: float | None = None
    cpu_seconds: float | None = None
    seconds: float | None = None
    failure: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)  # of trained tasks
    conditions: str = ""  # hash of scale, corpus and version of torch: records are comparable where it is equal

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the training."""
        return self.cell, self.scale, self.seed

    def at(self, fidelity: float) -> float | None:
        """The held-out loss after that share of the steps; None where none was measured there."""
        if fidelity >= 1:
            return self.loss
        if not self.curve:
            return None
        wanted = fidelity * self.curve[-1][0]
        measured = [(abs(step - wanted), loss) for step, _, loss in self.curve if loss is not None]
        distance, loss = min(measured, default=(float("inf"), None))
        return loss if distance <= 0.02 * self.curve[-1][0] else None


def append(path: Path, record: Record) -> None:
    """Add one line, durably. A line that a kill tore before is closed first."""
    line = json.dumps({key: value for key, value in asdict(record).items() if value not in (None, (), {}, "")})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
            file.write(b"\n" if torn else b"")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Record]:
    """The records of one file, `.jsonl` or `.jsonl.gz`. Torn lines are skipped."""
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        try:
            raw = json.loads(line)
        except ValueError:
            continue
        raw["curve"] = tuple(tuple(point) for point in raw.get("curve", ()))
        yield Record(**raw)


def read_all(folder: Path | None = None) -> list[Record]:
    """All records of a build's folder, or of the table that is shipped; each training once, in a fixed order."""
    places = sorted(folder.glob("*.jsonl*")) if folder else sorted(Path(str(SHIPPED)).glob("*.jsonl.gz"))
    found = {record.key: record for place in places for record in read(place)}
    return [found[key] for key in sorted(found)]


def pack(records: Iterable[Record], path: Path) -> int:
    """Write records as one compressed file, the same bytes for the same records. Returns its size."""
    lines = "".join(
        json.dumps({key: value for key, value in asdict(record).items() if value not in (None, (), {}, "")}) + "\n"
        for record in sorted(records, key=lambda record: record.key)
    )
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    return path.stat().st_size
