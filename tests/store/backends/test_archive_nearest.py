"""The searches in memory against slow and obvious ones."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from services.domain.structure import Fingerprint, fingerprint, similarity
from services.domain.zoo import baselines
from services.mixers.render import render
from services.store.backends.indices import BLOCK, MotivationIndex, ProgramIndex, Rows, Sketched, unit
from services.store.backends.neighbours import FINALISTS, Neighbours, Source, StoredVector
from tests.researcher.compositions import composition
from tests.store.simulation import program


def index_of(vectors: NDArray[np.float32], page: int = 1000) -> MotivationIndex:
    """Filled in pages, as a backend does."""
    index = MotivationIndex(vectors.shape[1])
    for low in range(0, len(vectors), page):
        rows = vectors[low : low + page]
        index.extend(low + len(rows), names(low, low + len(rows)), [row.astype("<f4").tobytes() for row in rows])
    return index


def names(low: int, high: int) -> list[str]:
    """Ids by number."""
    return [f"c{number:06d}" for number in range(low, high)]


def obviously(vectors: NDArray[np.float32], query: NDArray[np.float32], count: int) -> list[str]:
    """Every cosine in double precision, sorted."""
    exact = vectors.astype(np.float64)
    cosines = exact @ query.astype(np.float64) / np.linalg.norm(exact, axis=1)
    return [names(number, number + 1)[0] for number in np.argsort(-cosines, kind="stable")[:count].tolist()]


@pytest.mark.parametrize("count", [1, 2, 63, 100, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("spread", [0.001, 0.3, 30.0])
def test_the_nearest_are_those_of_a_full_search(count: int, spread: float) -> None:
    """At the edges of blocks, in tight bunches and in wide ones."""
    chance = np.random.default_rng(count)
    vectors = (chance.standard_normal(48) + spread * chance.standard_normal((count, 48))).astype(np.float32)
    index = index_of(vectors)
    for _ in range(3):
        query = unit((chance.standard_normal(48) + vectors[0]).tolist())

        neighbours = index.nearest(query, 10, "")

        assert [name for name, _ in neighbours] == obviously(vectors, query, 10)


def test_equal_vectors_come_in_the_order_of_their_ids() -> None:
    """Also when more are equal than are asked for; the one left out does not count."""
    index = index_of(np.ones((20, 8), np.float32))

    neighbours = index.nearest(unit([2.0] * 8), 3, "c000001")

    assert [name for name, _ in neighbours] == ["c000000", "c000002", "c000003"]
    assert [cosine for _, cosine in neighbours] == pytest.approx([1.0] * 3)


def test_zero_vectors_and_other_widths_have_no_neighbours() -> None:
    """They take no place, and the others keep theirs."""
    index = MotivationIndex(2)
    rows = [[0.0, 0.0], [1.0, 0.0], [float("nan"), 1.0], [1.0, 2.0, 3.0], [0.0, 2.0]]
    index.extend(9, names(0, 5), [np.array(row, "<f4").tobytes() for row in rows])

    assert [name for name, _ in index.nearest(unit([1.0, 0.1]), 5, "")] == ["c000001", "c000004"]
    assert index.last == 9


async def test_a_run_whose_motivations_have_no_direction_is_read_once() -> None:
    """An imported archive may hold nothing else."""

    class Directionless(Source):
        async def vectors(self, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:  # noqa: ARG002
            return [StoredVector(1, "c000001", bytes(16))] if after == 0 else []

    neighbours = Neighbours(Directionless())  # type: ignore[abstract]
    async with asyncio.timeout(5):
        for _ in range(2):
            assert await neighbours.motivations("r1", [1.0, 0.0, 0.0, 0.0], "e", 3, "") == []


def test_rows_are_taken_across_blocks() -> None:
    """In ascending order of their places, none of them copied before."""
    rows = Rows(1, np.float32)
    rows.extend(np.arange(2 * BLOCK + 5, dtype=np.float32)[:, None])
    positions = np.array([0, BLOCK - 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 4])

    assert rows.take(positions)[:, 0].tolist() == positions.tolist()
    assert rows.take(positions[:0]).shape == (0, 1)
    assert [len(block) for block in rows.blocks()] == [BLOCK, BLOCK, 5]


def test_the_similarity_of_stored_fingerprints_is_that_of_the_programs() -> None:
    """So an archive answers as a comparison of the texts would, before and after a restart."""
    prints = [fingerprint(baseline.program) for baseline in baselines()]

    sketched = [*map(Sketched.of, prints), Sketched.none()]

    for query in prints:
        alike = Sketched.of(query).similarities(sketched)
        assert alike == [*(similarity(query, other) for other in prints), 0.0]
    assert sketched[0].similarities([]) == []


def test_sketches_estimate_how_much_two_programs_share() -> None:
    """Within a few standard errors of a 16th, so that the most similar are among those compared in full."""
    chance = np.random.default_rng(1)
    for share in (0.1, 0.5, 0.9):
        runs = chance.integers(0, 2**32, 4000)
        both = int(2000 * share)
        first = Fingerprint("a", dict.fromkeys(runs[:2000].tolist(), 1))
        other = Fingerprint("b", dict.fromkeys(runs[2000 - both : 4000 - both].tolist(), 1))
        agreeing = float((Sketched.of(first).sketch == Sketched.of(other).sketch).mean())

        assert agreeing == pytest.approx(similarity(first, other), abs=0.2)


def test_the_finalists_hold_the_nearest_of_programs_as_the_search_writes_them() -> None:
    """Against every program compared with every other: a sketch that misses the nearest would let a repeat through."""
    prints = [Sketched.of(fingerprint(render(composition(seed), "Candidate"))) for seed in range(200)]
    known, queries = prints[:160], prints[160:]
    index = ProgramIndex()
    for position, sketched in enumerate(known):
        index.add(position + 1, str(position), sketched.digest, sketched.sketch)
    hits = 0
    for sketched in queries:
        exact = sketched.similarities(known)
        similarities = sorted(
            (exact[int(position)] for position in index.likely(sketched.sketch, FINALISTS, "")), reverse=True
        )
        assert similarities[0] == max(exact)
        hits += sum(value >= sorted(exact)[-5] for value in similarities[:5])

    assert hits >= 0.95 * 5 * len(queries)


def test_an_unparsable_program_has_no_similar_programs() -> None:
    """It shares no structure with anything, itself included."""
    index = ProgramIndex()
    index.add(1, "broken", "", Sketched.none().sketch)
    query = Sketched.of(fingerprint(program(1)))
    index.add(2, "whole", query.digest, query.sketch)

    assert index.same("", "") == []
    assert index.likely(query.sketch, 1, "") == ["whole"]
