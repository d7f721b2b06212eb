"""The lists that an archive answers with: sorted, filtered and in pages, the same from every backend and over gRPC."""

from typing import Any, get_args

import pytest

from services.contracts import candidate_pb2 as pb
from services.store.backends.rows import SORT_COLUMNS
from services.store.port import Page, Query, Sort
from tests.store.backends.conftest import Filled, fill


def value(record: pb.Candidate, sort: Sort) -> Any:
    """What a sort reads; None where it is absent."""
    training = record.training
    match sort:
        case "fitness":
            return record.verdict.fitness.value if record.verdict.HasField("fitness") else None
        case "loss":
            return training.loss if training.HasField("loss") else None
        case "benchmark":
            return training.benchmark if training.HasField("benchmark") else None
        case "parameters":
            return training.seeds[0].measurements.parameters if training.seeds else None
        case "time":
            return sum(seed.measurements.seconds for seed in training.seeds) if training.seeds else None
        case "stage":
            return record.stage
        case "state":
            return record.state
        case "number":
            return record.request.number


@pytest.mark.parametrize("reverse", [False, True])
async def test_lists_are_sorted_with_absent_numbers_last(filled: Filled, reverse: bool) -> None:
    """By every sort; ties by id."""
    archive, queries = filled
    simulation = await fill(archive)
    records = sorted((row.record for row in simulation.loaded.rows.values()), key=lambda record: record.id)

    for sort in get_args(Sort):
        page = await queries.list_candidates(Query("r1", sort=sort, reverse=reverse))

        known = [record for record in records if value(record, sort) is not None]
        absent = [record for record in records if value(record, sort) is None]
        known.sort(key=lambda record: value(record, sort), reverse=SORT_COLUMNS[sort][1] != reverse)
        assert [candidate.id for candidate in page.candidates] == [record.id for record in (*known, *absent)], sort
        assert page.total == len(records)
        assert list(page.candidates) == [*known, *absent]


async def test_pages_make_up_the_whole_list(filled: Filled) -> None:
    """Nothing twice, nothing left out."""
    archive, queries = filled
    await fill(archive)
    everything = await queries.list_candidates(Query("r1"))

    pages = [await queries.list_candidates(Query("r1", offset=offset, limit=5)) for offset in (0, 5, 10, 15)]

    assert [len(page.candidates) for page in pages] == [5, 5, 4, 0]
    assert tuple(candidate for page in pages for candidate in page.candidates) == everything.candidates
    assert {page.total for page in pages} == {14}


async def test_lists_can_be_filtered(filled: Filled) -> None:
    """By state, kind and stage, in any combination."""
    archive, queries = filled
    await fill(archive)

    async def ids(query: Query) -> list[str]:
        return sorted(candidate.id for candidate in (await queries.list_candidates(query)).candidates)

    assert await ids(Query("r1", states=(pb.STATE_REJECTED,))) == ["c000007", "c000014"]
    assert await ids(Query("r1", kinds=(pb.KIND_BASELINE,))) == ["c000001", "c000002"]
    assert await ids(Query("r1", states=(pb.STATE_REJECTED,), kinds=(pb.KIND_BASELINE,))) == []
    assert len(await ids(Query("r1", stage="tiny"))) == 14
    assert await queries.list_candidates(Query("r1", stage="verify")) == Page((), 0)


@pytest.mark.parametrize("query", [Query("r1", sort="beauty"), Query("r1", offset=-1), Query("r1", limit=-1)])  # type: ignore[arg-type]
async def test_an_impossible_list_request_names_the_field(filled: Filled, query: Query) -> None:
    """Not answered with something else."""
    archive, queries = filled
    await fill(archive)

    with pytest.raises(ValueError, match=r"sort|offset"):
        await queries.list_candidates(query)
