"""`asi-arch cost`: what a run has used in all, by kind of candidate, by role of a language model and per result.

`asi-arch stopping`: what each rule of early stopping would have saved in a run, and which finalists it would have lost.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import typer

from services.archive.scoring import curves_of
from services.console.archive import run_and_candidates
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.rows import kind_name
from services.console.settings import console_settings
from services.console.tables import ABSENT, Column, clock, paragraph, say, styled, table
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.domain.curves import (
    LEAST_COMPARED,
    MINIMUM_FINISHED,
    QUANTILES,
    StoppingReplay,
    replay_quantiles,
    replay_stopping,
)


def cost(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """What a run has used: time, compute, tokens, money."""
    totals = costs(*asyncio.run(run_and_candidates(console_settings(), chosen_run(argument, run))))
    if as_json:
        print_json(totals)
    else:
        _print(totals)


def costs(status: pb.RunStatus, records: Sequence[candidate_pb2.Candidate]) -> dict[str, object]:
    """Dollars are None without any price."""
    calls: defaultdict[str, list[candidate_pb2.Call]] = defaultdict(list)
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in records:
        seconds[kind_name(record.kind)] += sum(seed.measurements.seconds for seed in record.training.seeds)
        for call in record.calls:
            calls[call.role].append(call)
    priced = not calls or any(call.HasField("price") for role_calls in calls.values() for call in role_calls)
    spent = status.spent
    archived = (record for record in records if record.state == candidate_pb2.STATE_ARCHIVED)
    accepted = sum(record.kind == candidate_pb2.KIND_PROPOSAL for record in archived)
    confirmed = [record.discovery.effect for record in records if record.discovery.confirmed]
    money = spent.money if priced else None
    return {"run": status.run, "wall_seconds": spent.seconds, "training_seconds": spent.training_seconds,
            "gpu_seconds": spent.gpu_seconds, "flops": spent.flops, "tokens": spent.tokens,
            "dollars": money, "training_seconds_by_kind": dict(seconds),
            "minds_by_role": {role: _of_role(role_calls) for role, role_calls in sorted(calls.items())},
            "drafts": drafts(records),
            "per_accepted_proposal": _per(accepted, spent, money),
            "per_confirmed_discovery": {**_per(len(confirmed), spent, money),
                                        "gain": fmean(confirmed) if confirmed else None},
            }  # fmt: skip


def drafts(records: Sequence[candidate_pb2.Candidate]) -> dict[str, dict[str, float | int]]:
    """Drafts by version of the prompt, or by mind without a prompt.

    For each: requested proposals, first drafts that passed, and drafts refused as repeats or by checks.
    """
    outcomes: defaultdict[str, list[tuple[bool, Sequence[str]]]] = defaultdict(list)
    for record in records:
        if record.kind != candidate_pb2.KIND_PROPOSAL:
            continue
        refused = [*record.proposal.novelty_history, *_refused_drafts(record)]
        if record.HasField("proposal") or refused:
            versions = [call.prompt_version for call in record.calls if call.role == "propose" and call.prompt_version]
            version = record.proposal.prompt_version or next(reversed(versions), "") or record.proposal.mind or ABSENT
            outcomes[version].append((record.HasField("proposal") and not refused, refused))
    rows: dict[str, dict[str, float | int]] = {}
    for version, outcomes_of_version in sorted(outcomes.items()):
        passed = sum(passed_first for passed_first, _ in outcomes_of_version)
        refusals = [sentence for _, sentences in outcomes_of_version for sentence in sentences]
        failed = sum(sentence.startswith("the check fails") for sentence in refusals)
        rows[version] = {
            "asked": len(outcomes_of_version), "passed_at_first": passed, "rate": passed / len(outcomes_of_version),
            "repeats": len(refusals) - failed, "failed_checks": failed,
        }  # fmt: skip
    return rows


def _refused_drafts(record: candidate_pb2.Candidate) -> list[str]:
    """Why the drafts of a candidate that was rejected without a proposal were refused."""
    listed = record.rejection.evidence.fields.get("refused")
    return [] if listed is None else [str(value.string_value) for value in listed.list_value.values]


def _per(count: int, spent: pb.Spent, money: float | None) -> dict[str, float | None]:
    """Everything that the run has used for each of `count` results; None without any."""

    def share(whole: float | None) -> float | None:
        return whole / count if count and whole is not None else None

    return {
        "count": count,
        "training_seconds": share(spent.training_seconds),
        "tokens": share(spent.tokens),
        "dollars": share(money),
    }


def _of_role(calls: Sequence[candidate_pb2.Call]) -> dict[str, float | None]:
    prices = [call.reserved_price or call.price for call in calls if call.HasField("price") or call.reserved_price]
    tokens = sum(call.reserved_tokens or call.prompt_tokens + call.completion_tokens for call in calls)
    return {"calls": len(calls), "tokens": tokens, "dollars": sum(prices) if prices else None}


def _print(totals: Mapping[str, object]) -> None:
    """A line for each number; parts of a sum stand below its title."""
    for name, value in totals.items():
        if not isinstance(value, dict):
            say(f"{_title(name):<26}{_number(name, value)}")
        elif name.startswith("per_"):
            say(_title(name))
            say(f"  {_parts(value)} ({value['count']} so far)" if value["count"] else "  none so far")
        else:
            say(_title(name) + ("" if value else f"  {ABSENT}"))
            for part, numbers in sorted(value.items()):
                say(f"  {part:<24}{_parts(numbers) if isinstance(numbers, dict) else _number(name, numbers)}")


def _parts(numbers: Mapping[str, object]) -> str:
    """Several numbers of one thing, on one line."""
    return ", ".join(f"{_title(name)} {_number(name, value)}" for name, value in numbers.items() if name != "count")


def _title(name: str) -> str:
    return name.replace("_seconds", "_time").replace("_", " ")


def _number(name: str, value: object) -> str:
    if isinstance(value, float):
        if "_seconds" in name:
            return clock(value)
        return f"{value:,.4g}" if value >= 1e9 else f"{value:,.2f}".removesuffix(".00")
    return ABSENT if value is None else str(value)


FRACTIONS = (0.25, 0.4, 0.5, 0.6, 0.75)
SHARE_OF_FINALISTS = 4
MOST_FINALISTS = 10


@dataclass(frozen=True)
class Replayed:
    """One rule of early stopping and its effect; ``fraction`` is None for quantiles, which judge at several places."""

    fraction: float | None
    trainings: int
    replay: StoppingReplay


def stopping(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """What each rule of early stopping would have saved in a run, and which finalists it would have lost."""
    _, records = asyncio.run(run_and_candidates(console_settings(), chosen_run(argument, run)))
    rules = replays(records)
    if as_json:
        print_json([replay_row(replayed) for replayed in rules])
    elif rules:
        _print_replays(rules)
        if text := stopped_in_the_run(records):
            say(paragraph(text))
    if not rules:
        typer.echo(f"nothing can be said: {too_few(records)}", err=True)
        raise typer.Exit(1)


def replays(records: Sequence[candidate_pb2.Candidate]) -> list[Replayed]:
    """The rules over the whole trainings of a run in their order; empty if there are too few."""
    ordered = sorted(records, key=lambda record: (record.request.number, record.id))
    whole = [curve for curve in curves_of(ordered) if curve.final is not None]
    if len(whole) <= MINIMUM_FINISHED:
        return []
    finalists = min(MOST_FINALISTS, max(1, len(whole) // SHARE_OF_FINALISTS))
    quantiles = [Replayed(None, len(whole), replay_quantiles(whole, finalists))]
    extrapolation = [Replayed(at, len(whole), replay_stopping(whole, at, finalists)) for at in FRACTIONS]
    return (quantiles if len(whole) > LEAST_COMPARED else []) + extrapolation


def stopped_in_the_run(records: Sequence[candidate_pb2.Candidate]) -> str:
    """What the run's own rule has stopped, in a sentence; empty where it stopped nothing."""
    curves = curves_of(records)
    stopped = [curve for curve in curves if curve.final is None]
    if not stopped:
        return ""
    saved = sum(1 - curve.progress for curve in stopped) / len(curves)
    return f"The run itself stopped {len(stopped)} of {len(curves)} trainings, which saved {saved:.1%} of the steps."


def too_few(records: Sequence[candidate_pb2.Candidate]) -> str:
    """Why there is no replay."""
    whole = sum(curve.final is not None for curve in curves_of(records))
    return f"{whole} whole trainings with a curve; a regression needs {MINIMUM_FINISHED} before it may stop the next"


def replay_row(replayed: Replayed) -> dict[str, object]:
    """A replay as JSON; `saved` is a share of all steps."""
    replay = replayed.replay
    return {
        "rule": "quantiles" if replayed.fraction is None else "extrapolation",
        "stopped_at": replayed.fraction, "trainings": replayed.trainings, "stopped": len(replay.stopped),
        "saved": replay.saved, "finalists": len(replay.finalists), "finalists_lost": len(replay.lost),
    }  # fmt: skip


def _places(fraction: float | None) -> str:
    return ", ".join(f"{at:.0%}" for at in ([at for at, _ in QUANTILES] if fraction is None else [fraction]))


def _print_replays(rules: Sequence[Replayed]) -> None:
    lost = [f"{len(replayed.replay.lost)} of {len(replayed.replay.finalists)}" for replayed in rules]
    say(table([
        Column("rule", [str(replay_row(replayed)["rule"]) for replayed in rules]),
        Column("at", [_places(replayed.fraction) for replayed in rules], right=True),
        Column("trainings", [str(replayed.trainings) for replayed in rules], right=True),
        Column("stopped", [str(len(replayed.replay.stopped)) for replayed in rules], right=True),
        Column("compute saved", [f"{replayed.replay.saved:.0%}" for replayed in rules], right=True),
        Column("finalists lost", lost, right=True),
    ]))  # fmt: skip
    note = (
        "Each training is judged by the earlier ones alone. New runs stop by quantiles; --policy stopping=none trains "
        "everything to its end, --policy stopping=extrapolation --policy prune_from=0.5 predicts."
    )
    say(styled(paragraph(note), dim=True))
