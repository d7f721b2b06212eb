"""What an engineer keeps on disk while a candidate is in hand, so that a kill costs no more than the last minute.

Below `work/<run>/<candidate>/`: a checkpoint per seed under way, and the result of each seed that ended, named by
everything that it depends on. Below `progress/<run>/`: where each training stands, for whoever watches.
"""

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from google.protobuf.message import DecodeError

from services.contracts import candidate_pb2 as pb
from services.engineer.training.result import Metrics


class Workbench:
    """The files of one candidate."""

    def __init__(self, data_dir: Path, run: str, candidate: str) -> None:
        self._folder = data_dir / "work" / run / candidate
        self._progress = data_dir / "progress" / run / f"{candidate}.json"

    def checkpoint(self, seed: int) -> Path:
        """Where the training of a seed keeps what it goes on from."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{seed}.checkpoint"

    def finished(self, seed: int, identity: str) -> pb.SeedResult | None:
        """The result of a seed that an earlier attempt finished under the very same conditions."""
        try:
            return pb.SeedResult.FromString(self._result(seed, identity).read_bytes())
        except (FileNotFoundError, DecodeError):
            return None

    def finish(self, identity: str, result: pb.SeedResult) -> None:
        """Keep a seed's result until the candidate's event is out."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._result(result.seed, identity), result.SerializeToString())

    def tell(self, metrics: Metrics) -> None:
        """Where the training stands."""
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        numbers = {key: value for key, value in asdict(metrics).items() if value is None or value - value == 0}
        _replace(self._progress, json.dumps(numbers).encode())

    def done(self) -> None:
        """Nothing is in training any more."""
        with contextlib.suppress(FileNotFoundError):
            self._progress.unlink()

    def _result(self, seed: int, identity: str) -> Path:
        return self._folder / f"{seed}-{identity[:16]}.result"


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file and rename: a reader never sees half of it."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
