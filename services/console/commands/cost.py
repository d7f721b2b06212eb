"""`asi-arch cost`: what a run has used, in all, by kind of candidate, role of a language model, and per result; and how
drafts fared.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from services.console.archive import run_and_candidates
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.rows import kind_name
from services.console.settings import console_settings
from services.console.tables import ABSENT, clock, say
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2


def cost(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """What a run has used: time, compute, tokens, money."""
    found = costs(*asyncio.run(run_and_candidates(console_settings(), chosen_run(argument, run))))
    if as_json:
        print_json(found)
    else:
        _print(found)


def costs(status: pb.RunStatus, records: Sequence[candidate_pb2.Candidate]) -> dict[str, object]:
    """Dollars are None without any price."""
    calls: defaultdict[str, list[candidate_pb2.Call]] = defaultdict(list)
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in records:
        seconds[kind_name(record.kind)] += sum(seed.measurements.seconds for seed in record.training.seeds)
        for call in record.calls:
            calls[call.role].append(call)
    priced = not calls or any(call.HasField("price") for asked in calls.values() for call in asked)
    spent = status.spent
    accepted = [
        one for one in records if one.kind == candidate_pb2.KIND_PROPOSAL and one.state == candidate_pb2.STATE_ARCHIVED
    ]
    confirmed = [one.discovery.effect for one in records if one.HasField("discovery") and one.discovery.confirmed]
    money = spent.money if priced else None
    return {"run": status.run, "wall_seconds": spent.seconds, "training_seconds": spent.training_seconds,
            "gpu_seconds": spent.gpu_seconds, "flops": spent.flops, "tokens": spent.tokens,
            "dollars": money, "training_seconds_by_kind": dict(seconds),
            "minds_by_role": {role: _of_role(asked) for role, asked in sorted(calls.items())},
            "drafts": drafts(records),
            "per_accepted_proposal": _per(len(accepted), spent, money),
            "per_confirmed_discovery": {**_per(len(confirmed), spent, money),
                                        "gain": fmean(confirmed) if confirmed else None},
            }  # fmt: skip


def drafts(records: Sequence[candidate_pb2.Candidate]) -> dict[str, dict[str, float | int]]:
    """How drafts fared by the version of the prompt that asked for them, or by the mind where no prompt did.

    For each: proposals asked for, how many first drafts were new and sound, and drafts refused as repeats or by checks.
    """
    found: defaultdict[str, list[tuple[bool, Sequence[str]]]] = defaultdict(list)
    for record in records:
        if record.kind != candidate_pb2.KIND_PROPOSAL:
            continue
        refused = [*record.proposal.novelty_history, *_refused_drafts(record)]
        if record.HasField("proposal") or refused:
            asked = [call.prompt_version for call in record.calls if call.role == "propose" and call.prompt_version]
            version = record.proposal.prompt_version or next(reversed(asked), "") or record.proposal.mind or ABSENT
            found[version].append((record.HasField("proposal") and not refused, refused))
    rows: dict[str, dict[str, float | int]] = {}
    for version, fared in sorted(found.items()):
        passed = sum(first for first, _ in fared)
        told = [sentence for _, sentences in fared for sentence in sentences]
        failed = sum(sentence.startswith("the check fails") for sentence in told)
        rows[version] = {
            "asked": len(fared), "passed_at_first": passed, "rate": passed / len(fared),
            "repeats": len(told) - failed, "failed_checks": failed,
        }  # fmt: skip
    return rows


def _refused_drafts(record: candidate_pb2.Candidate) -> list[str]:
    """Why the drafts of a seat that ended without a proposal were refused."""
    listed = record.rejection.evidence.fields.get("refused")
    return [] if listed is None else [str(one.string_value) for one in listed.list_value.values]


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


def _print(found: Mapping[str, object]) -> None:
    """A line for each number; parts of a sum stand below its title."""
    for name, value in found.items():
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
    told = [(name, value) for name, value in numbers.items() if name != "count"]
    return ", ".join(f"{_title(name)} {_number(name, value)}" for name, value in told)


def _title(name: str) -> str:
    return name.replace("_seconds", "_time").replace("_", " ")


def _number(name: str, value: object) -> str:
    if isinstance(value, float):
        if "_seconds" in name:
            return clock(value)
        return f"{value:,.4g}" if value >= 1e9 else f"{value:,.2f}".removesuffix(".00")
    return ABSENT if value is None else str(value)
