"""Records of trainings, and the files that hold them."""

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

    `curve` holds (step, mean training loss since the last point, held-out loss or None). A failed training has
    `failure` and no `loss`. `cpu_seconds` is the training child's CPU time; `seconds` is wall-clock time with scoring.
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
    scores: Mapping[str, float] = field(default_factory=dict)  # accuracies in trained tasks
    conditions: str = ""  # hash of scale, corpus and version of torch; records with the same one are comparable

    @property
    def key(self) -> tuple[str, str, int]:
        return self.cell, self.scale, self.seed

    def at(self, fidelity: float) -> float | None:
        """The held-out loss after a share of the steps, if it was measured there."""
        if fidelity >= 1:
            return self.loss
        if not self.curve:
            return None
        target = fidelity * self.curve[-1][0]
        losses = [(abs(step - target), loss) for step, _, loss in self.curve if loss is not None]
        distance, loss = min(losses, default=(float("inf"), None))
        return loss if distance <= 0.02 * self.curve[-1][0] else None


def _line(record: Record) -> str:
    return json.dumps({key: value for key, value in asdict(record).items() if value not in (None, (), {}, "")}) + "\n"


def append(path: Path, record: Record) -> None:
    """Append one line durably, after completing a line that was interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            incomplete = file.read(1) != b"\n"
            file.write(b"\n" if incomplete else b"")
        file.write(_line(record).encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Record]:
    """The records of one file, `.jsonl` or `.jsonl.gz`. Incomplete lines are skipped."""
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        try:
            raw = json.loads(line)
        except ValueError:
            continue
        raw["curve"] = tuple(tuple(point) for point in raw.get("curve", ()))
        yield Record(**raw)


def read_all(folder: Path | None = None) -> list[Record]:
    """All records of a folder, or of the shipped table, without duplicates and in a fixed order.

    Of records with one key that of the last file counts: packed files come first, as a build may begin with one.
    """
    found = (folder or Path(str(SHIPPED))).glob("*.jsonl*")
    paths = sorted(found, key=lambda path: (path.suffix != ".gz", path.name))
    records = {record.key: record for path in paths for record in read(path)}
    return [records[key] for key in sorted(records)]


def pack(records: Iterable[Record], path: Path) -> int:
    """Write records reproducibly to one compressed file. Returns its size."""
    lines = "".join(map(_line, sorted(records, key=lambda record: record.key)))
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    return path.stat().st_size
