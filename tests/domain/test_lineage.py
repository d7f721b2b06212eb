"""The family tree: paths, relatives, and flaws found in any mapping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.lineage import (
    Flaws,
    children,
    depths,
    flaws,
    path_to_root,
    roots,
    subtree,
)

TREE = {"delta": None, "gated": None, "a": "delta", "b": "delta", "c": "a", "d": "a", "e": "c"}
forests = st.lists(st.integers(-3, 100), max_size=30).map(
    lambda picks: {f"n{i}": f"n{pick % i}" if pick >= 0 and i else None for i, pick in enumerate(picks)}
)
mappings = st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("abcdefghxy"))


def test_relatives_in_a_small_forest() -> None:
    """Several roots are allowed; every relation in one look."""
    assert path_to_root(TREE, "e") == ["e", "c", "a", "delta"]
    assert roots(TREE) == ["delta", "gated"]
    assert children(TREE)["delta"] == ["a", "b"]
    assert subtree(TREE, "a") == ["a", "c", "e", "d"]


@given(forests)
def test_depths_agree_with_the_paths(forest: dict[str, str | None]) -> None:
    """The fast way equals the definition, and sound forests have no flaws."""
    assert depths(forest) == {node: len(path_to_root(forest, node)) - 1 for node in forest}
    assert flaws(forest) == Flaws((), ())


@given(forests)
def test_subtrees_of_the_roots_part_the_forest(forest: dict[str, str | None]) -> None:
    """Everyone descends from exactly one root."""
    nodes = [node for top in roots(forest) for node in subtree(forest, top)]

    assert sorted(nodes) == sorted(forest)


@given(mappings)
def test_a_mapping_has_a_flaw_exactly_where_a_path_fails(mapping: dict[str, str | None]) -> None:
    """The linear search for flaws misses nothing and invents nothing."""
    failing = False
    for node in mapping:
        try:
            path_to_root(mapping, node)
        except ValueError:
            failing = True

    assert (flaws(mapping) != Flaws((), ())) == failing


def test_orphans_and_cycles_are_named() -> None:
    """An importer refuses with the offending ids; those that merely lead into a cycle are not its members."""
    result = flaws({"a": "b", "b": "a", "tail": "a", "lost": "nobody", "self": "self", "fine": None})

    assert result.orphans == ("lost",)
    assert result.cyclic == ("a", "b", "self")


@pytest.mark.parametrize("function", [path_to_root, lambda tree, _: depths(tree)])
def test_walking_a_flawed_tree_is_refused(function: object) -> None:
    """No endless loop, no silent end."""
    assert callable(function)
    with pytest.raises(ValueError, match="cycle"):
        function({"a": "b", "b": "a"}, "a")
    with pytest.raises(ValueError, match="unknown parent"):
        function({"a": "b"}, "a")


def test_unknown_candidates_are_key_errors() -> None:
    """The candidate does not exist."""
    with pytest.raises(KeyError):
        path_to_root(TREE, "zz")
    with pytest.raises(KeyError):
        subtree(TREE, "zz")


def test_subtree_ends_in_a_cycle() -> None:
    """Even a flawed mapping terminates."""
    assert subtree({"a": "b", "b": "a"}, "a") == ["a", "b"]
