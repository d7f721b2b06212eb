"""`asi-arch table` on a table that is being built."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.chassis.errors import NotPossible, SettingsError
from services.console.commands.table import table
from services.table.lattice import cells
from services.table.records import append, pack, read_all
from tests.table.synthetic import synthetic_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the lattice with one seed, in a compressed piece, and two more seeds of a few in a plain one."""
    folder = tmp_path_factory.mktemp("table")
    pack(synthetic_records(seeds=(1,))[::2], folder / "half.jsonl.gz")
    for record in synthetic_records(seeds=(2, 3))[:20]:
        append(folder / "more.jsonl", record)
    return folder


def called(*arguments: object) -> Result:
    result = CliRunner().invoke(table, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def answer(*arguments: object) -> Any:
    return json.loads(called(*arguments, "--json").output)


@pytest.mark.slow
def test_info_shows_coverage_reliability_early_losses_stopping_and_effects(folder: Path, tmp_path: Path) -> None:
    """As data, and as text of a few records."""
    for record in synthetic_records(seeds=(1, 2, 3))[:60]:
        append(tmp_path / "few.jsonl", record)
    report = answer("info", "--folder", folder)

    assert (report["architectures"], report["of"], report["failed"]) == (576 + 5, len(cells()), 0)
    assert report["reliability"]["share"] > 0.9
    assert [row["fidelity"] for row in report["fidelities"]] == [0.25, 0.5, 0.75]
    assert {row["rule"] for row in report["stopping"]} == {"extrapolation", "halving", "quantiles"}
    assert all(row["low"] <= row["gain"] <= row["high"] for row in report["effects"])
    text = called("info", "--folder", tmp_path).output
    assert "Effects" in text
    assert "no_output_norm" in text


def test_query_answers_for_a_baseline_by_name(folder: Path) -> None:
    cell = cells()[0].name

    assert answer("query", cell, "--folder", folder)["cell"] == cell
    with pytest.raises(SettingsError, match="no architecture"):
        called("query", "nobody", "--folder", folder)
    with pytest.raises(NotPossible, match="no training at mini-half with seed 9"):
        called("query", cell, "--seed", 9, "--folder", folder)


def test_a_simulated_search_names_its_table(folder: Path) -> None:
    measured = answer("simulate", "local", "--budget", 30, "--folder", folder)
    estimated = answer("simulate", "local", "--budget", 30, "--folder", folder, "--estimates")

    assert len(measured["regrets"]) == 30
    assert "measured architectures" in measured["space"]
    assert "provisional" in estimated["space"]


def test_compare_pairs_every_policy_with_random_and_local_search(folder: Path) -> None:
    report = answer("compare", "--policies", "surrogate,random", "--budgets", "20,40", "--runs", 5, "--folder", folder)
    results: Sequence[dict[str, Any]] = report["results"]

    assert [(row["policy"], row["budget"]) for row in results] == [
        ("surrogate", 20), ("random", 20), ("surrogate", 40), ("random", 40),
    ]  # fmt: skip
    assert set(results[0]["p"]) == {"random", "local"}
    assert set(results[1]["p"]) == {"local"}


def test_a_figure_of_an_unknown_format_is_refused(folder: Path, tmp_path: Path) -> None:
    """With the formats that there are."""
    flags = ("--plot", tmp_path / "regret.txt", "--policies", "random", "--budgets", 5, "--runs", 2)
    with pytest.raises(SettingsError, match=r"--plot .*regret\.txt: Format 'txt' is not supported"):
        called("compare", *flags, "--folder", folder)


@pytest.mark.parametrize("flags", [("--budgets", "0"), ("--budgets", "20,-3"), ("--seats", "0"), ("--budgets", ",")])
def test_numbers_below_one_are_refused(folder: Path, flags: tuple[str, str]) -> None:
    """A negative budget would be counted from the end of the search."""
    with pytest.raises(SettingsError, match=f"{flags[0]} is '{flags[1]}'; give comma-separated whole numbers from 1"):
        called("compare", *flags, "--runs", 2, "--folder", folder)


def test_pack_writes_what_can_be_read_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "packed" / "all.jsonl.gz"
    path.parent.mkdir()
    called("pack", folder, path)

    assert read_all(path.parent) == read_all(folder)
