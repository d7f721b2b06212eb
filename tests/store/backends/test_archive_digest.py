"""The digest: what two archives agree on exactly when they hold the same history."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.bus import Logged
from services.chassis.events import body_of
from services.contracts import events_pb2
from services.store.backends import open_archive
from services.store.port import Archive
from tests.store.backends.archive_urls import archive_url
from tests.store.simulation import Simulation, answered


async def digest_of(url: str, log: list[Logged]) -> tuple[str, int]:
    """Of a new archive that has applied a log."""
    archive = open_archive(url)
    await archive.open()
    await archive.apply(log)
    digest = await archive.digest("r1")
    await archive.close()
    return digest


def renumbered(bodies: list[Logged], start: int = 1) -> list[Logged]:
    """The same messages at other places of a log."""
    return [Logged(number, message.subject, message.body) for number, message in enumerate(bodies, start)]


@pytest.mark.mongo
async def test_both_backends_agree(request: pytest.FixtureRequest, tmp_path: Path, finished: Simulation) -> None:
    """So a replay of one run into either can be compared with the other."""
    digests = [
        await digest_of(archive_url(backend, request, tmp_path), finished.log) for backend in ("sqlite", "mongo")
    ]

    assert digests[0] == digests[1]


async def test_the_digest_does_not_depend_on_other_runs_or_sequences(archive: Archive, finished: Simulation) -> None:
    """A run's events may lie anywhere in a log that many runs share."""
    other = Simulation("r2")
    other.start()
    other.finish()
    mixed = renumbered([*other.log[:9], *finished.log[:20], *other.log[9:], *finished.log[20:]])

    await archive.apply(renumbered(mixed))
    together = await archive.digest("r1")

    assert together[1] == len(finished.log)
    assert together[0] != (await archive.digest("r2"))[0]


async def test_every_changed_event_changes_the_digest(tmp_path: Path, finished: Simulation) -> None:
    """Also one that leaves no other trace, as the time of a claim."""
    expected = await digest_of(f"sqlite:///{tmp_path}/whole.db", finished.log)
    for number in (3, 30, len(finished.log) - 1):
        event = events_pb2.Event.FromString(finished.log[number].body)
        event.time.nanos += 1
        changed = [*finished.log]
        changed[number] = Logged(number + 1, changed[number].subject, body_of(event))

        assert await digest_of(f"sqlite:///{tmp_path}/{number}.db", changed) != expected


@st.composite
def retellings(draw: st.DrawFn) -> list[int]:
    """An order of a simulation's messages that respects causes, with some told again later; by their places."""
    simulation = STORY
    events = [events_pb2.Event.FromString(message.body) for message in simulation.log]
    deliveries: list[int] = []
    ids: set[str] = set()
    waiting = list(range(len(events)))
    while waiting:
        ready = [index for index in waiting if _ready(events, index, ids, waiting)]
        chosen = ready[draw(st.integers(0, min(3, len(ready) - 1)))]
        waiting.remove(chosen)
        ids.add(events[chosen].id)
        deliveries.append(chosen)
        if draw(st.integers(0, 4)) == 0:
            deliveries.append(deliveries[draw(st.integers(0, len(deliveries) - 1))])
    return deliveries


def _ready(events: list[events_pb2.Event], index: int, ids: set[str], waiting: list[int]) -> bool:
    """Its cause was told, and everything earlier of its own candidate; facts of the run keep their order."""
    event = events[index]
    if event.cause and event.cause not in ids:
        return False
    return not any(events[earlier].candidate == event.candidate for earlier in waiting if earlier < index)


def _story() -> Simulation:
    simulation = Simulation(seed=5)
    simulation.start()
    simulation.say(answered(simulation.open[0], 1))
    simulation.say(answered(simulation.open[1], 2))
    return simulation.finish()


STORY = _story()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(deliveries=retellings(), cut=st.integers(1, 40))
async def test_order_and_repetition_of_deliveries_do_not_change_the_digest(
    tmp_path_factory: pytest.TempPathFactory, deliveries: list[int], cut: int
) -> None:
    """Candidates interleave as they like, publishers repeat themselves, batches end anywhere."""
    folder = tmp_path_factory.mktemp("digest")
    straight = await digest_of(f"sqlite:///{folder}/straight.db", STORY.log)
    retold = renumbered([STORY.log[index] for index in deliveries])
    archive = open_archive(f"sqlite:///{folder}/retold.db")
    await archive.open()
    for start in range(0, len(retold), cut):
        await archive.apply(retold[max(0, start - 3) : start + cut])  # three are delivered again
    digest = await archive.digest("r1")
    await archive.close()

    assert digest == straight
