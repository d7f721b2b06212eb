"""What an archive answers, the same from every backend and over gRPC."""

from dataclasses import replace
from itertools import pairwise

import pytest

from services.chassis.errors import NotFound
from services.chassis.events import Cause, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.port import Query
from tests.store.backends.conftest import Filled, fill
from tests.store.simulation import EMBEDDER, Simulation, embedding, program


async def test_a_candidate_is_found_by_id_and_by_a_name_of_its_own(filled: Filled) -> None:
    """Names are not unique: an ambiguous one is refused with the ids that have it."""
    archive, queries = filled
    simulation = await fill(archive)
    by_name: dict[str, list[str]] = {}
    for row in simulation.loaded.rows.values():
        by_name.setdefault(row.record.proposal.name, []).append(row.record.id)

    for row in simulation.loaded.rows.values():
        assert await queries.record("r1", row.record.id) == row.record
    with pytest.raises(ValueError, match=r"ambiguous.*c000001"):
        await queries.record("r1", "net_1")
    with pytest.raises(NotFound):
        await queries.record("r1", "net_9")
    with pytest.raises(NotFound):
        await queries.record("r1", "")


async def test_a_unique_name_is_enough(filled: Filled) -> None:
    """As a reader types it."""
    archive, queries = filled
    simulation = Simulation()
    simulation.start()
    simulation.step(simulation.open[0])
    await archive.apply(simulation.log)

    assert (await queries.record("", "net_1")).id == "c000001"


async def test_several_are_read_in_the_order_asked_for(filled: Filled) -> None:
    """Unknown ids and names are left out."""
    archive, queries = filled
    await fill(archive)

    records = await queries.candidates("r1", ["c000005", "c000099", "c000001", "net_1", "c000005"])

    assert [record.id for record in records] == ["c000005", "c000001", "c000005"]


async def test_relatives_agree_with_the_records(filled: Filled) -> None:
    """Tree, subtree, children and path against the parents that the records name; both baselines are roots."""
    archive, queries = filled
    simulation = await fill(archive)
    records = {row.record.id: row.record for row in simulation.loaded.rows.values()}
    tree = await queries.tree("r1")

    assert [node.id for node in tree] == sorted(records)
    assert [node.id for node in tree if not node.parent] == ["c000001", "c000002"]
    for node in tree:
        record = records[node.id]
        assert node.parent == record.proposal.parent
        assert node.HasField("fitness") == record.verdict.HasField("fitness")
        assert node.fitness == record.verdict.fitness.value
        path = await queries.path("r1", node.id)
        children = await queries.children("r1", node.id)
        below = {descendant.id for descendant in await queries.subtree("r1", node.id)}
        assert path[-1] == node.id
        assert [records[name].proposal.parent for name in path] == ["", *path[:-1]]
        assert set(children) == {name for name in records if records[name].proposal.parent == node.id}
        assert children == sorted(children, key=lambda name: (-(records[name].verdict.fitness.value or -1.0), name))
        assert below == {name for name in records if node.id in await queries.path("r1", name)}


def imported(simulation: Simulation, parents: dict[str, str]) -> None:
    """Published records enter a simulation, in the order given."""
    cause = Cause.of(simulation.log[0].body)
    for name, parent in parents.items():
        record = pb.Candidate(id=name, run=simulation.run, kind=pb.KIND_IMPORTED, state=pb.STATE_ARCHIVED)
        record.proposal.parent = parent
        event = follow(cause, "imported", "console", 1, record.id)
        event.candidate_imported.CopyFrom(events_pb2.CandidateImported(source="published", record=record))
        simulation.say(event)


async def test_long_paths_and_records_out_of_order(filled: Filled) -> None:
    """Far longer than what one step reads; also where a parent came after its children, or never."""
    archive, queries = filled
    simulation = Simulation()
    simulation.start()
    long = [f"i{number:03d}" for number in range(150)]
    imported(simulation, dict(zip(long, ["", *long], strict=False)))
    imported(simulation, {"late": "later", "latest": "late", "later": "i149", "lost": "nobody", "below": "lost"})
    await archive.apply(simulation.log)

    assert await queries.path("r1", "i149") == long
    assert await queries.path("r1", "i000") == ["i000"]
    assert await queries.path("r1", "latest") == [*long, "later", "late", "latest"]
    assert await queries.path("r1", "below") == ["lost", "below"]
    assert await queries.path("r1", "c000001") == ["c000001"]
    assert len(await archive.subtree("r1", "i000")) == 153
    assert [node.id for node in await archive.subtree("r1", "lost")] == ["lost", "below"]


async def test_a_path_that_runs_in_a_circle_is_refused(filled: Filled) -> None:
    """Nothing of ours writes one, but the question must end."""
    archive, queries = filled
    simulation = Simulation()
    simulation.start()
    imported(simulation, {"a": "b", "b": "c", "c": "a", "d": "c", "self": "self"})
    await archive.apply(simulation.log)

    for name in ("a", "b", "c", "d", "self"):
        with pytest.raises(ValueError, match="cycle"):
            await queries.path("r1", name)
    assert {node.id for node in await archive.subtree("r1", "a")} == {"a", "b", "c", "d"}


async def test_the_pool_of_any_moment_can_be_asked_for(filled: Filled) -> None:
    """Snapshots hold from their sequence on; before the first there is none."""
    archive, queries = filled
    simulation = await fill(archive)
    updates = [message for message in simulation.log if "pool.updated" in message.subject]

    assert len(updates) > 2
    assert await queries.pool("r1", updates[0].sequence - 1) is None
    for update, following in zip(updates, [*updates[1:], None], strict=True):
        members = tuple(events_pb2.Event.FromString(update.body).pool_updated.members)
        for moment in (update.sequence, following.sequence - 1 if following else 0):
            pool = await queries.pool("r1", moment)
            assert pool is not None
            assert (pool.run, pool.sequence, pool.members) == ("r1", update.sequence, members)


async def test_baselines_come_root_first(filled: Filled) -> None:
    """The judge takes the first as what the others are compared with."""
    archive, queries = filled
    await fill(archive)

    assert [record.request.baseline for record in await queries.baselines("r1")] == ["delta_net", "gated_delta_net"]


async def test_near_motivations_are_those_of_the_nearest_direction(filled: Filled) -> None:
    """By cosine, best first; itself and other embedders' vectors apart."""
    archive, queries = filled
    await fill(archive)

    near = await queries.nearest_motivations("r1", [10 * value for value in embedding(5)], EMBEDDER, 3, "c000005")
    itself = await queries.nearest_motivations("r1", embedding(5), EMBEDDER, 1, "")
    elsewhere = await queries.nearest_motivations("r1", embedding(5), "another-8", 3, "")

    assert [neighbour.candidate.id for neighbour in near] == ["c000004", "c000006", "c000003"]
    assert all(first.similarity >= second.similarity for first, second in pairwise(near))
    assert itself[0].candidate.id == "c000005"
    assert itself[0].similarity == pytest.approx(1.0, abs=1e-6)
    assert elsewhere == []


@pytest.mark.parametrize("wrong", [[], [0.0] * 8, [float("nan")] * 8, [1.0, 2.0]])
async def test_an_impossible_embedding_is_refused(filled: Filled, wrong: list[float]) -> None:
    """No direction, no neighbour."""
    archive, queries = filled
    await fill(archive)

    with pytest.raises(ValueError, match="embedding"):
        await queries.nearest_motivations("r1", wrong, EMBEDDER, 3, "")


async def test_near_motivations_include_new_candidates(filled: Filled) -> None:
    """The index follows the archive."""
    archive, queries = filled
    simulation = Simulation()
    simulation.start()
    simulation.step(simulation.open[0])
    await archive.apply(simulation.log)
    before = await queries.nearest_motivations("r1", embedding(2), EMBEDDER, 5, "")
    simulation.step(simulation.open[0])
    await archive.apply(simulation.log)

    after = await queries.nearest_motivations("r1", embedding(2), EMBEDDER, 5, "")

    assert [neighbour.candidate.id for neighbour in before] == ["c000001"]
    assert [neighbour.candidate.id for neighbour in after] == ["c000002", "c000001"]


async def test_programs_of_one_structure_are_found_whatever_their_names(filled: Filled) -> None:
    """Identifiers, comments and layout do not count; those of the same structure come first."""
    archive, queries = filled
    await fill(archive)
    renamed = "# another\n" + program(5).replace("project", "map").replace("hidden_states", "h").replace(
        "DeltaNet", "X"
    )

    near = await queries.nearest_programs("r1", renamed, 4, "")
    others = await queries.nearest_programs("r1", renamed, 4, "c000005")

    assert near[0].candidate.id == "c000005"
    assert [neighbour.same_structure for neighbour in near] == [True, False, False, False]
    assert near[0].similarity == 1.0
    assert 1.0 > near[1].similarity >= near[2].similarity >= near[3].similarity > 0.5
    assert "c000005" not in [neighbour.candidate.id for neighbour in others]
    with pytest.raises(ValueError, match="not Python"):
        await queries.nearest_programs("r1", "def (", 3, "")


async def test_the_chain_holds_every_event_of_a_candidate(filled: Filled) -> None:
    """With sequence and hash, the refused ones too."""
    archive, queries = filled
    simulation = Simulation()
    simulation.start()
    simulation.finish()
    simulation.repeat(2)
    await archive.apply(simulation.log)

    chain = await queries.chain("r1", "c000001")

    facts = ["requested", "proposed", "claimed", "trained", "judged", "analysed", "archived", "requested"]
    assert [(row.event.WhichOneof("fact") or "").removeprefix("candidate_") for row in chain] == facts
    assert [row.accepted for row in chain] == [True] * 7 + [False]
    assert chain[-1].refused_because == "a duplicate of sequence 2"
    assert chain == [row for row in chain if row.candidate == "c000001" and row.run == "r1"]
    assert [row.sha256 for row in chain[:1]] == [row.sha256 for row in chain[-1:]]


async def test_states_are_counted(filled: Filled) -> None:
    """As they are now."""
    archive, queries = filled
    simulation = Simulation()
    simulation.start()
    simulation.step(simulation.open[0])
    await archive.apply(simulation.log)

    assert await queries.state_counts("r1") == {pb.STATE_REQUESTED: 1, pb.STATE_PROPOSED: 1}


async def test_events_are_counted_for_each_run(filled: Filled) -> None:
    """The log's sequence goes on over all runs; what a run has taken is its own."""
    archive, queries = filled
    first, second = Simulation("r1"), Simulation("r2")
    first.start()
    second.start()
    second.step(second.open[0])
    log = [*first.log, *(replace(message, sequence=message.sequence + len(first.log)) for message in second.log)]
    await archive.apply(log)

    assert await queries.event_count("r1") == len(first.log)
    assert await queries.event_count("r2") == len(second.log)


async def test_queries_about_unknown_candidates_raise_not_found(filled: Filled) -> None:
    """An unknown run and an unknown candidate, in every question."""
    archive, queries = filled
    await fill(archive)

    for question in (
        queries.record("r9", "c000001"), queries.candidates("r9", ["c000001"]), queries.list_candidates(Query("r9")),
        queries.state_counts("r9"), queries.event_count("r9"), queries.tree("r9"), queries.subtree("r1", "c999999"),
        queries.children("r1", "c999999"),
        queries.path("r1", "c999999"), queries.pool("r9"), queries.baselines("r9"), queries.chain("r1", "c999999"),
        queries.nearest_motivations("r9", embedding(1), EMBEDDER, 1, ""), queries.digest("r9"),
        queries.nearest_programs("r9", program(1), 1, ""),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await question


async def test_an_empty_name_means_the_newest_run(filled: Filled) -> None:
    """For every question."""
    archive, queries = filled
    await fill(archive)

    assert await queries.digest("") == await queries.digest("r1")
    assert await queries.tree("") == await queries.tree("r1")
    assert await queries.pool("") == await queries.pool("r1")
