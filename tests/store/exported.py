"""A run in a file that tests change, as whoever publishes it could."""

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from services.contracts import events_pb2
from services.store.auditing import LogAudit, audit_log, manifest_of, manifest_path
from services.store.exporting import lines_of, log_lines
from services.store.projection import read
from services.store.replay import Rebuilt
from tests.store.simulation import Simulation

FLAGSHIP = Path(__file__).parents[2] / "examples" / "flagship"
PUBLISHED = (FLAGSHIP / "log.jsonl.gz", FLAGSHIP / "tiny" / "log.jsonl.gz")
Lines = list[dict[str, Any]]


@dataclass
class Export:
    """A run in a file, as `export --format jsonl --manifest` writes it."""

    path: Path
    manifest: dict[str, object]
    lines: Lines

    def __post_init__(self) -> None:
        self.original_hashes = [hashlib.sha256(base64.b64decode(line["body"])).digest() for line in self.lines]

    @classmethod
    def of_story(cls, simulation: Simulation, folder: Path) -> "Export":
        """Of a run that was played."""
        with Rebuilt() as rebuilt:
            rebuilt.apply([read(message) for message in simulation.log])
            digest, _ = rebuilt.digest()
            refused = [outcome.sha256 for outcome in rebuilt.outcomes if not outcome.accepted]
        manifest = manifest_of(simulation.log, simulation.run, digest, refused)
        return cls(folder / "r1.jsonl.gz", manifest, [json.loads(line) for line in log_lines(simulation.log)])

    @classmethod
    def published(cls, folder: Path, log: Path = PUBLISHED[0]) -> "Export":
        """A copy of a run that the repository ships."""
        manifest = json.loads(manifest_path(log).read_text(encoding="utf-8"))
        return cls(folder / "log.jsonl.gz", manifest, [json.loads(line) for line in lines_of(log)])

    async def audited(self) -> LogAudit:
        """Write the lines as they are now, and audit the file."""
        self.path.write_bytes(gzip.compress("".join(f"{json.dumps(line)}\n" for line in self.lines).encode()))
        return await audit_log(self.path, self.manifest)

    def of(self, fact: str) -> int:
        """The place of the first event of a fact."""
        return next(index for index, line in enumerate(self.lines) if line["subject"].split(".")[4] == fact)

    def change(self, index: int, change: Callable[[events_pb2.Event], None], readable: bool = True) -> str:
        """Rewrite an event's bytes, and its readable part with them; its id."""
        event = events_pb2.Event.FromString(base64.b64decode(self.lines[index]["body"]))
        change(event)
        self.lines[index]["body"] = base64.b64encode(event.SerializeToString(deterministic=True)).decode()
        if readable:
            self.lines[index]["event"] = MessageToDict(event, preserving_proto_field_name=True)
        return event.id

    def forget_hash(self, index: int) -> None:
        """Make the manifest agree with what the line holds now."""
        event = base64.b64decode(self.lines[index]["body"])
        listed = self.manifest["sha256"]
        assert isinstance(listed, list)
        listed[index] = hashlib.sha256(event).hexdigest()

    def rechain(self) -> None:
        """Compute the hashes anew that events hold of their causes, as a forger can."""
        renewed: dict[bytes, bytes] = {}

        def relink(event: events_pb2.Event) -> None:
            event.previous = renewed.get(event.previous, event.previous)

        for index, line in enumerate(self.lines):
            before = self.original_hashes[index]
            self.change(index, relink)
            renewed[before] = hashlib.sha256(base64.b64decode(line["body"])).digest()
