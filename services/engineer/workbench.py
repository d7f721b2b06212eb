"""What an engineer keeps on disk while a candidate is in hand, so that a kill costs no more than the last minute.

Below `work/<run>/<candidate>/`: a checkpoint per seed under way, and the result of each seed that ended, named by
everything that it depends on.
"""

import os
from pathlib import Path

from google.protobuf.message import DecodeError

from services.contracts import candidate_pb2 as pb


class Workbench:
    """The files of one candidate."""

    def __init__(self, data_dir: Path, run: str, candidate: str) -> None:
        self._folder = data_dir / "work" / run / candidate

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
