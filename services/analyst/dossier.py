"""What an analysis is written from: the candidate, its relatives, the root of its run, and what was retrieved."""

from dataclasses import dataclass

from services.analyst.cognition.corpus import Knowledge
from services.analyst.cognition.search import Hit
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2


@dataclass(frozen=True)
class Dossier:
    """Absent relatives are None or empty: a root has no parent."""

    record: pb.Candidate
    root: pb.Candidate | None
    parent: pb.Candidate | None
    grandparent: pb.Candidate | None
    siblings: tuple[pb.Candidate, ...]  # best first
    hits: tuple[Hit, ...]
    settings: events_pb2.RunSettings
    baselines: tuple[pb.Candidate, ...] = ()  # the measured ones but for the root
    sources: tuple[Knowledge, ...] = ()  # the entries that the proposal's ideas name as their source

    @property
    def everyone(self) -> tuple[pb.Candidate, ...]:
        """The candidate first, then its relatives, the root and the other baselines, each once."""
        known: dict[str, pb.Candidate] = {}
        for one in (self.record, self.parent, self.root, self.grandparent, *self.siblings, *self.baselines):
            if one is not None:
                known.setdefault(one.id, one)
        return tuple(known.values())
