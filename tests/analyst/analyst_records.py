"""Hand-built records, and an archive that knows them."""

from collections.abc import Sequence
from typing import Any

from services.analyst.comparison import Dossier
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from tests.archive_server import KnownArchive

BLOCKS = 64
ITEMS = 100


def candidate(
    name: str,
    number: int,
    losses: Sequence[float] = (1.5,),
    right: int = 40,
    parent: str = "",
    components: Sequence[str] = ("delta-rule",),
    noise: float = 0.01,
) -> pb.Candidate:
    """A measured candidate: one seed per loss; blocks scatter by `noise`, `right` of 100 items are answered."""
    seeds = [_seed(index + 1, loss, right, noise * (1 + number / 10)) for index, loss in enumerate(losses)]
    return pb.Candidate(
        id=f"c{number:06d}", run="r1", stage="tiny", state=pb.STATE_JUDGED,
        kind=pb.KIND_PROPOSAL if parent else pb.KIND_BASELINE,
        request=pb.Request(number=number, baseline="" if parent else name),
        proposal=pb.Proposal(
            name=name, parent=parent, program="CHUNK = 64\n", motivation="It shall remember.", components=components
        ),
        training=pb.Training(seeds=seeds, loss=sum(losses) / len(losses), benchmark=right / ITEMS),
        verdict=pb.Verdict(baseline="c000001", fitness=pb.Fitness(version="paper", value=0.5)),
    )  # fmt: skip


def _seed(seed: int, loss: float, right: int, noise: float) -> pb.SeedResult:
    swings = [noise * ((index * 7 % 5) - 2) for index in range(BLOCKS)]
    centre = sum(swings) / BLOCKS
    task = pb.TaskScore(
        task="mqar", metric="acc", value=right / ITEMS, stderr=0.05, items=ITEMS,
        correct=[index < right for index in range(ITEMS)],
    )  # fmt: skip
    return pb.SeedResult(
        seed=seed, loss=loss, bits_per_byte=loss / 2, scores=[task],
        block_losses=[loss + swing - centre for swing in swings],
        measurements=pb.Measurements(parameters=398_016, tokens_per_second=16_117.0),
    )  # fmt: skip


def dossier(record: pb.Candidate, **changes: Any) -> Dossier:
    """With nothing but the record, unless told otherwise."""
    defaults: dict[str, Any] = {"root": None, "parent": None, "grandparent": None, "siblings": (), "hits": ()}
    return Dossier(record=record, settings=events_pb2.RunSettings(mind="offline"), **{**defaults, **changes})


ROOT = candidate("delta_net", 1, losses=(1.50,))
PARENT = candidate("Parent", 2, losses=(1.45,), parent="c000001", components=("delta-rule", "forget-gate"))
SIBLING = candidate("Sibling", 3, losses=(1.44,), parent="c000002")
CHILD = candidate(
    "Child", 4, losses=(1.40,), right=60, parent="c000002", components=("delta-rule", "short-convolution")
)


class Archive(KnownArchive):
    """The store's service, with the first three records above and one run."""

    def __init__(self, settings: events_pb2.RunSettings, *more: pb.Candidate) -> None:
        super().__init__(ended(ROOT), PARENT, SIBLING, *more, settings=settings)


def ended(record: pb.Candidate) -> pb.Candidate:
    """The same, archived."""
    archived = pb.Candidate()
    archived.CopyFrom(record)
    archived.state = pb.STATE_ARCHIVED
    return archived
