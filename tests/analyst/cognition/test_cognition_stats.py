"""Statistics of use: entries that were retrieved for candidates that improved."""

from __future__ import annotations

from services.analyst.cognition.ingest import Use, statistics_of


def test_entries_of_improving_candidates_come_first() -> None:
    """The table is read from the top."""
    rows = statistics_of([Use(("a", "b"), 0.1), Use(("b",), -0.2), Use(("c",), -0.1), Use(("a", "a"), 0.3)])

    assert [row.entry for row in rows] == ["a", "b", "c"]
    assert (rows[0].uses, rows[0].improved, rows[0].mean_gain) == (2, 2, 0.2)
    assert (rows[1].improved, rows[1].measured) == (1, 2)


def test_a_use_without_fitness_counts_as_use_but_neither_better_nor_worse() -> None:
    """A rejected candidate says nothing about an entry's worth."""
    (row,) = statistics_of([Use(("a",), None)])

    assert (row.uses, row.measured, row.improved) == (1, 0, 0)
    assert row.mean_gain is None
    assert (row.improved, row.measured) == (0, 0)


def test_no_uses_give_no_rows() -> None:
    """An empty archive is not an error."""
    assert statistics_of([]) == ()
