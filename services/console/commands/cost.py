"""`asi-arch cost`, `stopping` and `scaling`: resources of a run, early stopping, and discoveries against compute."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from services.chassis.errors import NotPossible
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.tables import Column, paragraph, say, styled, table
from services.domain.curves import QUANTILES
from services.local.archive import run_and_candidates
from services.local.settings import client_settings, require_choice
from services.report import compute
from services.report.rows import ABSENT, clock


def cost(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Show the time, compute, tokens and money that a run has used."""
    totals = compute.costs(*asyncio.run(run_and_candidates(client_settings(), chosen_run(argument, run))))
    if as_json:
        print_json(totals)
    else:
        print_costs(totals)


def print_costs(totals: Mapping[str, object]) -> None:
    """A line for each number; the parts of a sum follow its title."""
    for name, value in totals.items():
        if not isinstance(value, dict):
            say(f"{_title(name):<26}{_number(name, value)}")
        elif name.startswith("per_"):
            say(_title(name))
            say(paragraph(f"{_parts(value)} ({value['count']} so far)" if value["count"] else "none so far", 2, "  "))
        else:
            say(_title(name) + ("" if value else f"  {ABSENT}"))
            for part, numbers in sorted(value.items()):
                text = _parts(numbers) if isinstance(numbers, dict) else _number(name, numbers)
                say(paragraph(text, 26, f"  {part:<24}"))


def _parts(numbers: Mapping[str, object]) -> str:
    """Several numbers of one thing, on one line."""
    return ", ".join(f"{_title(name)} {_number(name, value)}" for name, value in numbers.items() if name != "count")


def _title(name: str) -> str:
    return name.replace("_seconds", "_time").replace("_", " ")


def _number(name: str, value: object) -> str:
    if isinstance(value, float):
        if "_seconds" in name:
            return clock(value)
        if name == "tokens":
            return f"{value:,.0f}"
        return f"{value:,.4g}" if value >= 1e9 else f"{value:,.2f}".removesuffix(".00")
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else str(value)


def stopping(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Show what each rule of early stopping would have saved in a run, and which finalists it would have lost."""
    _, records = asyncio.run(run_and_candidates(client_settings(), chosen_run(argument, run)))
    rules = compute.replays(records)
    if as_json:
        print_json([compute.replay_row(replayed) for replayed in rules])
    elif rules:
        _print_replays(rules)
        if text := compute.stopped_in_the_run(records):
            say(paragraph(text))
    if not rules:
        raise NotPossible(f"nothing can be said: {compute.too_few(records)}")


def _print_replays(rules: Sequence[compute.Replayed]) -> None:
    fractions = [[at for at, _ in QUANTILES] if rule.fraction is None else [rule.fraction] for rule in rules]
    lost = [f"{len(replayed.replay.lost)} of {len(replayed.replay.finalists)}" for replayed in rules]
    say(table([
        Column("rule", [str(compute.replay_row(replayed)["rule"]) for replayed in rules]),
        Column("at", [", ".join(f"{at:.0%}" for at in places) for places in fractions], right=True),
        Column("trainings", [str(replayed.trainings) for replayed in rules], right=True),
        Column("stopped", [str(len(replayed.replay.stopped)) for replayed in rules], right=True),
        Column("compute saved", [f"{replayed.replay.saved:.0%}" for replayed in rules], right=True),
        Column("finalists lost", lost, right=True),
    ]))  # fmt: skip
    note = (
        "Each training is judged by the earlier ones alone. New runs stop by quantiles; --policy stopping=none "
        "stops none, --policy stopping=extrapolation --policy prune_from=0.5 predicts final losses."
    )
    say(styled(paragraph(note), dim=True))


def scaling(
    argument: RunArgument = "",
    run: Run = "",
    on_table: Annotated[
        bool, typer.Option("--table", help="simulate runs on the shipped table of mixers; needs no run")
    ] = False,
    policy: Annotated[str | None, typer.Option(help="with --table: the search policy", show_default="bandit")] = None,
    budget: Annotated[
        int | None,
        typer.Option(min=4, help="with --table: trainings of each run", show_default=str(compute.TABLE_BUDGET)),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="with --table: number of runs", show_default=str(compute.TABLE_RUNS))
    ] = None,
    against: Annotated[str, typer.Option(help="a baseline's name; default: the strongest control")] = "",
    as_json: Json = False,
) -> None:
    """Count candidates better than the strongest control against compute, with a fit and its interval.

    A candidate is better if its loss is below the control's by more than the noise between seeds.
    """
    if not on_table and (policy, budget, runs) != (None, None, None):
        raise typer.BadParameter("--policy, --budget and --runs need --table")
    if on_table and (argument or run):
        raise typer.BadParameter("--table simulates runs: it takes no RUN")
    try:
        if on_table:
            from services.table.policies import POLICIES

            policy = policy or "bandit"
            require_choice("--policy", policy, tuple(POLICIES))
            result = compute.on_the_table(policy, budget or compute.TABLE_BUDGET, runs or compute.TABLE_RUNS, against)
        else:
            status, records = asyncio.run(run_and_candidates(client_settings(), chosen_run(argument, run)))
            result = compute.of_run(status.run, records, against)
    except ValueError as error:
        raise NotPossible(f"nothing can be said: {error}") from None
    if as_json:
        print_json(compute.scaling_row(result))
    else:
        say(paragraph(compute.scaling_text(result)))
