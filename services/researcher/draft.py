"""The port of proposing: from what a seat may see to a draft, again with what was refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from services.contracts import archive_pb2, checker_pb2, cognition_pb2, events_pb2
from services.contracts import candidate_pb2 as pb


@dataclass(frozen=True)
class Context:
    """What one seat proposes from, as the archive stood when it was asked."""

    record: pb.Candidate
    parent: pb.Candidate
    references: tuple[pb.Candidate, ...]
    rejections: tuple[pb.Candidate, ...]
    history: tuple[archive_pb2.MoveOutcome, ...]
    entries: tuple[cognition_pb2.CognitionEntry, ...]
    settings: events_pb2.RunSettings
    best: tuple[pb.Candidate, ...] = ()  # the best by loss, the parent left out
    board: tuple[pb.Candidate, ...] = ()  # what was measured so far
    scale: checker_pb2.ScaleDescription | None = None


@dataclass(frozen=True)
class Draft:
    """A proposal before it is known to be new and sound."""

    name: str
    motivation: str
    program: str
    components: Sequence[str] = ()
    ideas: Sequence[pb.Idea] = ()
    moves: Sequence[str] = ()
    description: Mapping[str, object] | None = None
    memory: str = ""  # "fixed-state", "window" or "growing"; empty where nobody said
    mind: str = ""
    prompt_version: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a draft was not taken: it repeats something, the check found a fault (`sentence` holds the numbers), or it is
    sound and waits for others, of which the best is kept."""

    kind: Literal["repeat", "check", "drawn"]
    draft: Draft
    sentence: str
    verdicts: tuple[pb.ProbeVerdict, ...] = field(default=())
    repeats: tuple[pb.Candidate, ...] = field(default=())


class Proposer(Protocol):
    """Thinks up candidates."""

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """The next draft, knowing what was refused. Raises Rejected when it has nothing more to offer."""
        ...

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """What the draft repeats by its idea, in a sentence; empty where it is new, or nobody can tell."""
        ...

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """The original's program without the component that the record's request names, knowing what was refused.

        Raises Rejected where it cannot be left out.
        """
        ...
