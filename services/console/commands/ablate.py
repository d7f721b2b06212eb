"""`asi-arch ablate`: the same program without each of its components in turn, and which of them carries the gain.

Without a candidate: what each move of the run brought so far, from all pairs of programs that differ by it alone.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import math
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import grpc.aio
import typer

from services.chassis import logs
from services.chassis.errors import NotPossible
from services.chassis.events import first
from services.chassis.rpc import channel
from services.console.archive import all_candidates, open_archive, run_and_candidates
from services.console.commands.sizes import CORPORA, Trained, planned, read_sizes, record_named, train_all
from services.console.log import SERVICE, publish
from services.console.options import Candidate, Json, Run, print_json
from services.console.rows import Gain, gain_over, seed_noise, widened
from services.console.settings import ConsoleSettings, console_settings, running_system
from services.console.system import System, running
from services.console.tables import ABSENT, Column, number, paragraph, say, styled, table
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.statistics import Interval, Noise, holm, paired_test, pooled_noise

POLL_SECONDS = 1.0
FILE = "ablations.jsonl"
"""Trainings of programs without a part, in the run's folder."""
LUCK = (
    "Parents and ablated candidates were chosen for a low loss, which is in part luck: proposals look worse by it and "
    "ablated components better."
)
ENDED = frozenset({pb.STATE_ARCHIVED, pb.STATE_REJECTED})
FORM = frozenset({"chunkwise-form", "parallel-scan", "hardware-kernel"})
"""How a program is computed, not what it computes: nothing to leave out."""


@dataclass(frozen=True)
class Part:
    """One component: what the candidate loses without it, or why that is not known."""

    component: str
    ablation: str
    loss: float | None
    gain: Gain | None  # of the whole candidate over the one without the component
    reason: str


@dataclass(frozen=True)
class MoveEffect:
    """By how much a move or a component lowers the held-out loss (nats per token), over pairs of trained programs.

    `source` is "ablation" where one program of a pair is the other without the component, "proposal" where it is the
    other's child by this one move, and "table" for the table of mixers.
    """

    source: str
    move: str
    pairs: int
    gain: float
    interval: Interval
    other_seeds: bool = True  # whether the interval covers other seeds than the one trained with

    @property
    def verdict(self) -> str:
        """In words; an interval around zero shows nothing."""
        if self.interval.crosses_zero:
            return "not told apart"
        return ("pays" if self.gain > 0 else "costs") + ("" if self.other_seeds else " with this seed")


def ablate(
    candidate: Candidate = "",
    component: Annotated[
        list[str] | None, typer.Option(help="leave out only this one; may be given again; default: each in turn")
    ] = None,
    programs: Annotated[
        Path | None,
        typer.Option(
            help="a folder of programs, each the candidate with one thing left out: train these and the candidate "
            "instead, without services; the same again goes on",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="trainings of each program of the folder")] = 3,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Train the same program without each of its components, with the same seeds, and see which carries the gain.

    Without a candidate: what each move brought in the run so far; nothing is trained.
    """
    logs.configure("console", "warning")
    if not candidate:
        if programs is not None or component:
            raise typer.BadParameter("--programs and --component need a CANDIDATE")
        settings = console_settings()
        status, records = asyncio.run(run_and_candidates(settings, run))
        _print_effects(move_effects(records, read_sizes(settings.run_folder(status.run) / FILE)), as_json)
        return
    if programs is not None:
        _ablate_programs(console_settings(), run, candidate, programs, seeds, as_json)
        return
    note: Callable[[str], None] = (lambda _: None) if as_json else say
    original, part_rows = asyncio.run(_ablate(console_settings(), run, candidate, component or (), note))
    if as_json:
        print_json([part_row(part) for part in part_rows])
    else:
        _print(original, part_rows)
    if not any(part.gain for part in part_rows):
        raise typer.Exit(1)


def move_effects(records: Sequence[pb.Candidate], trained: Sequence[Trained] = ()) -> list[MoveEffect]:
    """What each move brought in a run: ablations before proposals, the largest gain first.

    `trained` are trainings of a folder of programs, as `asi-arch ablate --programs` leaves them: pairs by seed. Else
    a pair is one difference of losses over the seeds and held-out blocks that both programs share. Its deviation is
    pooled from the pairs of all moves that have several, and from the seeds of all programs that have several; where
    there are none, an interval is that of the one pair over held-out blocks.
    """
    whole = [item for item in records if not any(seed.HasField("stopped") for seed in item.training.seeds)]
    by_id = {record.id: record for record in whole}
    gains = defaultdict[tuple[str, str], list[Gain]](list)
    for record in whole:
        ablated, parent = by_id.get(record.request.ablation_of), by_id.get(record.proposal.parent)
        if record.kind == pb.KIND_ABLATION and ablated is not None and (gain := gain_over(record, ablated)):
            gains["ablation", record.request.without_component].append(gain)
        elif record.kind == pb.KIND_PROPOSAL and parent is not None and parent.stage == record.stage:
            change = _single_change(record, parent)
            if change and (gain := gain_over(parent, record)):
                gains["proposal", change].append(gain)
    seeds = [[math.sqrt(2) * seed.loss for seed in record.training.seeds] for record in whole]
    several = [
        group for group in [*seeds, *([item.mean for item in same] for same in gains.values())] if len(group) > 1
    ]
    deviation = pooled_noise(several) if several else None
    effects = []
    for original in dict.fromkeys(item.candidate for item in trained if item.candidate in by_id):
        own = [item for item in trained if item.ablation_of in ("", original)]
        names = {item.candidate: "" for item in own if item.candidate not in by_id}
        effects += [
            MoveEffect("ablation", f"{original} against {item.name}", item.seeds, item.rise, item.interval)
            for item in variants_of(own, original, names)
        ]
    for (source, move), same in gains.items():
        mean = fmean(gain.mean for gain in same)
        between = deviation and paired_test([gain.mean for gain in same], deviation).interval()
        covered = between is not None or same[0].seeds > 1
        effects.append(MoveEffect(source, move, len(same), mean, between or same[0].interval, covered))
    return sorted(effects, key=lambda effect: (effect.source, -effect.gain))


def _single_change(record: pb.Candidate, parent: pb.Candidate) -> str:
    """The one move or component in which a child differs from its parent; empty for several or none."""
    if record.proposal.moves:
        return record.proposal.moves[0] if len(record.proposal.moves) == 1 else ""
    own, before = (set(side.proposal.components or side.analysis.components) for side in (record, parent))
    added, removed = own - before, before - own
    if len(added | removed) != 1:
        return ""
    return next(iter(added), "") or f"no {next(iter(removed))}"


def _print_effects(effects: Sequence[MoveEffect], as_json: bool) -> None:
    if as_json:
        print_json([{**asdict(effect), "verdict": effect.verdict} for effect in effects])
        return
    if not effects:
        raise NotPossible(
            "no two programs of the run differ by a single move or component; `asi-arch ablate CANDIDATE` makes some"
        )
    say(table([
        Column("from", [f"{effect.source}s" for effect in effects]),
        Column("move", [effect.move for effect in effects], flexible=True),
        Column("gain", [f"{effect.gain:+.4f}" for effect in effects], right=True),
        Column("[95 %]", [f"[{effect.interval.low:+.4f}, {effect.interval.high:+.4f}]" for effect in effects]),
        Column("pairs", [str(effect.pairs) for effect in effects], right=True),
        Column("", [effect.verdict for effect in effects], rank=1),
    ]))  # fmt: skip
    say(styled(paragraph(f"gain: nats per token by which the loss falls with the move. {LUCK}"), dim=True))


@dataclass(frozen=True)
class Variant:
    """A program of the folder beside the candidate: the rise of the loss without what it leaves out, paired by seed."""

    name: str
    description: str
    parameters: int | None
    seeds: int
    loss: float
    rise: float
    interval: Interval
    p: float  # one-sided: that the loss rises, by Holm's correction over the variants


def _ablate_programs(
    settings: ConsoleSettings, run: str, candidate: str, folder: Path, seeds: int, as_json: bool
) -> None:
    """Train what is missing, then compare. Raises NotPossible for a folder without programs."""
    status, records = asyncio.run(run_and_candidates(settings, run))
    own = record_named(records, candidate)
    files = sorted(folder.glob("*.py"))
    variants = [
        pb.Candidate(
            id=file.stem,
            request=pb.Request(ablation_of=own.id),
            proposal=pb.Proposal(name=file.stem, program=file.read_text("utf-8")),
        )
        for file in files
    ]
    path = settings.run_folder(status.run) / FILE
    plan = list(planned(status, [own, *variants], [1], seeds, CORPORA[:1], _trainings_for(own.id, path)))
    train_all(plan, path, os.cpu_count() or 1, quiet=as_json)
    descriptions = {file.stem: ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "" for file in files}
    rows = variants_of(_trainings_for(own.id, path), own.id, descriptions)
    if not rows:
        raise NotPossible(f"{folder} holds no program that was trained with two seeds or more")
    if as_json:
        print_json([asdict(variant) for variant in rows])
        return
    say(f"{own.id} {own.proposal.name}, and what is left without a part of it, {rows[0].seeds} seeds each")
    say(table([
        Column("", [variant.name for variant in rows], flexible=True),
        Column("parameters", [number(variant.parameters, ",") for variant in rows], right=True, rank=2),
        Column("loss", [f"{variant.loss:.4f}" for variant in rows], right=True),
        Column("rise", [f"{variant.rise:+.4f}" for variant in rows], right=True),
        Column("[95 %]", [f"[{variant.interval.low:+.4f}, {variant.interval.high:+.4f}]" for variant in rows]),
        Column("p", [f"{variant.p:.2g}" for variant in rows], right=True, rank=1),
    ]))  # fmt: skip
    say(styled(paragraph("rise: nats per token above the candidate, same seeds; p: Holm-corrected"), dim=True))


def _trainings_for(candidate: str, path: Path) -> list[Trained]:
    """Without those of another candidate's variants, whose files may have the same names."""
    return [training for training in read_sizes(path) if training.ablation_of in ("", candidate)]


def variants_of(trained: Sequence[Trained], candidate: str, descriptions: Mapping[str, str]) -> list[Variant]:
    """The variants that share two seeds or more with the candidate, the largest rise of the loss first."""
    losses: dict[str, dict[int, float]] = {}
    parameters = {training.candidate: training.parameters for training in trained}
    for training in trained:
        if training.loss is not None:
            losses.setdefault(training.candidate, {})[training.seed] = training.loss
    tests = {}
    for name in descriptions:
        shared = sorted(set(losses.get(name, {})) & set(losses.get(candidate, {})))
        if len(shared) > 1:
            tests[name] = shared, paired_test([losses[name][seed] - losses[candidate][seed] for seed in shared])
    adjusted = holm([test.p for _, test in tests.values()])
    return sorted(
        (
            Variant(name, descriptions[name], parameters[name], len(shared), fmean(losses[name][s] for s in shared),
                    test.effect, test.interval(), p)
            for (name, (shared, test)), p in zip(tests.items(), adjusted, strict=True)
        ),
        key=lambda training: -training.rise,
    )  # fmt: skip


async def _ablate(
    settings: ConsoleSettings, run: str, candidate: str, components: Sequence[str], note: Callable[[str], None]
) -> tuple[pb.Candidate, list[Part]]:
    """Ask for what was not asked for before, wait for all of it, compare. Starts the services where none run.

    Raises NotFound, NotPossible for a candidate that was not trained or has no such component.
    """
    async with open_archive(settings) as archive:
        request = archive_pb2.GetCandidateRequest(run=run, candidate=candidate)
        original = await archive.GetCandidate(request, timeout=30)
    chosen = components_of(original, components)
    async with (
        _services(settings, original.stage, note) as (client, system),
        channel(client.archive_address, client) as connection,
    ):
        archive = archive_pb2_grpc.ArchiveStub(connection)
        records = await all_candidates(archive, archive_pb2.ListCandidatesRequest(run=original.run))
        requested = {component.request.without_component for component in ablations_of(records, original.id)}
        await publish(client, [_wanted(original, component) for component in chosen if component not in requested])
        records = await _all_ended(archive, original, chosen, system, note)
    return original, [part for part in parts(original, records) if part.component in chosen]


def components_of(original: pb.Candidate, selection: Sequence[str]) -> list[str]:
    """What can be left out of a candidate. Raises NotPossible."""
    if not original.training.HasField("loss"):
        raise NotPossible(f"candidate {original.id} was not trained: there is nothing to compare an ablation with")
    own = [
        component for component in original.proposal.components or original.analysis.components if component not in FORM
    ]
    if unknown := [component for component in selection if component not in own]:
        raise NotPossible(f"candidate {original.id} has no component {unknown[0]}; it has {', '.join(own) or 'none'}")
    if not own:
        raise NotPossible(f"candidate {original.id} names no component")
    return list(selection) or own


def ablations_of(records: Sequence[pb.Candidate], candidate: str) -> list[pb.Candidate]:
    """The ablations of one candidate."""
    return [record for record in records if record.kind == pb.KIND_ABLATION and record.request.ablation_of == candidate]


def parts(original: pb.Candidate, records: Sequence[pb.Candidate]) -> list[Part]:
    """What each component brings, the most first; what could not be measured last, with the reason."""
    between = seed_noise(records)
    results = [_part(original, ablation, between) for ablation in ablations_of(records, original.id)]
    return sorted(
        results, key=lambda ablation: (ablation.gain is None, -(ablation.gain.mean if ablation.gain else 0.0))
    )


def part_row(part: Part) -> dict[str, object]:
    """A part as JSON."""
    interval = part.gain.interval if part.gain else None
    return {
        "component": part.component, "ablation": part.ablation, "loss_without": part.loss,
        "brings": part.gain.mean if part.gain else None, "low": interval.low if interval else None,
        "high": interval.high if interval else None, "verdict": _verdict(part), "reason": part.reason or None,
    }  # fmt: skip


def _print(original: pb.Candidate, part_rows: Sequence[Part]) -> None:
    """Which component carries the gain."""
    say(f"{original.id} {original.proposal.name}: loss {original.training.loss:.4f} nats per token with all of it")
    intervals = [part.gain.interval if part.gain else None for part in part_rows]
    say(table([
        Column("without", [part.component for part in part_rows]),
        Column("id", [part.ablation for part in part_rows], rank=1),
        Column("loss", [number(part.loss) for part in part_rows], right=True),
        Column("gain", [number(part.gain.mean if part.gain else None, "+.4f") for part in part_rows], right=True),
        Column("[95 %]", [ABSENT if at is None else f"[{at.low:+.4f}, {at.high:+.4f}]" for at in intervals], rank=2),
        Column("", [part.reason or _verdict(part) for part in part_rows], flexible=True),
    ]))  # fmt: skip
    say(styled(paragraph("gain: nats per token that the loss rises by without the component, same seeds"), dim=True))


def _verdict(part: Part) -> str:
    """In words: an interval around zero carries nothing."""
    if part.gain is None:
        return "not measured"
    return part.gain.words.replace("better", "carries").replace("worse", "harms")


def _part(original: pb.Candidate, ablation: pb.Candidate, between: Noise | None) -> Part:
    gain = gain_over(ablation, original) if ablation.training.HasField("loss") else None
    loss = ablation.training.loss if ablation.training.HasField("loss") else None
    reason = ablation.rejection.reason if ablation.HasField("rejection") else ""
    return Part(
        ablation.request.without_component, ablation.id, loss, None if gain is None else widened(gain, between), reason
    )


def _wanted(original: pb.Candidate, component: str) -> events_pb2.Event:
    event = first(original.run, f"{original.id}.wanted-by-hand.{component}", SERVICE)
    event.candidate = original.id
    event.ablation_wanted.CopyFrom(
        events_pb2.AblationWanted(component=component, reason="asked for at the console", by_hand=True)
    )
    return event


async def _all_ended(
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    original: pb.Candidate,
    chosen: Sequence[str],
    system: System | None,
    note: Callable[[str], None],
) -> list[pb.Candidate]:
    """All candidates of the run, once the chosen ablations have ended."""
    reported: set[str] = set()
    while True:
        for name in system.supervise() if system else ():
            note(f"the {name} ended unexpectedly and was started again")
        with contextlib.suppress(grpc.aio.AioRpcError):
            records = await all_candidates(archive, archive_pb2.ListCandidatesRequest(run=original.run))
            own = [
                ablation
                for ablation in ablations_of(records, original.id)
                if ablation.request.without_component in chosen
            ]
            ended = {ablation.request.without_component for ablation in own if ablation.state in ENDED}
            for component in sorted(ended - reported):
                note(f"without {component}: done, {len(ended)} of {len(chosen)}")
            reported = ended
            if len(ended) == len(set(chosen)):
                return records
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _services(
    settings: ConsoleSettings, stage: str, note: Callable[[str], None]
) -> AsyncIterator[tuple[ConsoleSettings, System | None]]:
    """Settings that reach running services: those of this folder, those that the environment names, or own ones."""
    if (other := running_system(settings)) is not None:
        update = {"nats_url": other.nats_url, "archive_address": other.addresses["archive"]}
        yield settings.model_copy(update=update), None
    elif "ASI_ARCHIVE_ADDRESS" in os.environ:
        yield settings, None
    else:
        note("starting the services …")
        extra = {} if "ASI_ENGINEER_STAGES" in os.environ else {"ASI_ENGINEER_STAGES": stage}
        async with running(settings, extra) as system:
            yield system.client, system
