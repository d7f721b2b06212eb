"""`asi-arch ablate`: train a program without each of its components in turn, to measure what each contributes.

Without a candidate: the effect of each move of the run, from all pairs of programs that differ by that move alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import grpc.aio
import typer

from services.archive import all_candidates
from services.chassis import logs
from services.chassis.errors import NotPossible
from services.chassis.events import first
from services.chassis.rpc import channel
from services.console.commands.sizes import CORPORA, planned, record_named, train_all
from services.console.options import Candidate, Json, Run, print_json
from services.console.tables import Column, paragraph, say, styled, table
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.components import FORM
from services.local.archive import open_archive, run_and_candidates
from services.local.log import SERVICE, publish
from services.local.programs import read_programs
from services.local.settings import ClientSettings, client_settings, running_system
from services.local.system import System, running
from services.report.comparisons import (
    ABLATIONS_FILE,
    LUCK,
    MoveEffect,
    Part,
    Trained,
    ablations_of,
    move_effects,
    part_row,
    parts,
    read_sizes,
    variants_of,
    verdict_of,
)
from services.report.rows import bounds, interval_text, number

POLL_SECONDS = 1.0
ENDED = frozenset({pb.STATE_ARCHIVED, pb.STATE_REJECTED})


def ablate(
    candidate: Candidate = "",
    component: Annotated[
        list[str] | None, typer.Option(help="leave out only this one; repeatable; default: each in turn")
    ] = None,
    programs: Annotated[
        Path | None,
        typer.Option(
            help="a folder of programs, each the candidate without one part: train these and the candidate "
            "instead, without services; a repeated command continues",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="with --programs: trainings of each program", show_default="3")
    ] = None,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Train a program without each of its components, with the same seeds, to measure what each contributes.

    Without a candidate: the effect of each move of the run so far; nothing is trained.
    """
    if seeds is not None and programs is None:
        raise typer.BadParameter("--seeds needs --programs: other ablations use the seeds of the run")
    if component and programs is not None:
        raise typer.BadParameter("--programs and --component name different ablations: give one")
    logs.configure_for_people()
    if not candidate:
        if programs is not None or component:
            raise typer.BadParameter("--programs and --component need a CANDIDATE")
        settings = client_settings()
        status, records = asyncio.run(run_and_candidates(settings, run))
        _print_effects(move_effects(records, read_sizes(settings.run_folder(status.run) / ABLATIONS_FILE)), as_json)
        return
    if programs is not None:
        _ablate_programs(client_settings(), run, candidate, programs, seeds or 3, as_json)
        return
    note: Callable[[str], None] = (lambda _: None) if as_json else say
    original, part_rows = asyncio.run(_ablate(client_settings(), run, candidate, component or (), note))
    if as_json:
        print_json([part_row(part) for part in part_rows])
    else:
        _print(original, part_rows)
    if not any(part.gain for part in part_rows):
        raise typer.Exit(1)


def _print_effects(effects: Sequence[MoveEffect], as_json: bool) -> None:
    if as_json:
        print_json([{**asdict(effect), "verdict": effect.verdict} for effect in effects])
    if not effects:
        raise NotPossible(
            "no two programs of the run differ by a single move or component; `asi-arch ablate CANDIDATE` makes some"
        )
    if as_json:
        return
    say(table([
        Column("from", [f"{effect.source}s" for effect in effects]),
        Column("move", [effect.move for effect in effects], flexible=True),
        Column("gain", [f"{effect.gain:+.4f}" for effect in effects], right=True),
        Column("[95 %]", [interval_text(*bounds(effect.interval)) for effect in effects]),
        Column("pairs", [str(effect.pairs) for effect in effects], right=True),
        Column("", [effect.verdict for effect in effects], rank=1),
    ]))  # fmt: skip
    say(styled(paragraph(f"gain: fall of the loss with the move (nats per token). {LUCK}"), dim=True))


def _ablate_programs(
    settings: ClientSettings, run: str, candidate: str, folder: Path, seeds: int, as_json: bool
) -> None:
    """Train what is missing, then compare. Raises SettingsError for a folder without programs, or with a bad one."""
    programs = read_programs("--programs", [str(folder)])
    status, records = asyncio.run(run_and_candidates(settings, run))
    own = record_named(records, candidate)
    variants = [
        pb.Candidate(
            id=program.name,
            request=pb.Request(ablation_of=own.id),
            proposal=pb.Proposal(name=program.name, program=program.program),
        )
        for program in programs
    ]
    path = settings.run_folder(status.run) / ABLATIONS_FILE
    plan = list(planned(status, [own, *variants], [1], seeds, CORPORA[:1], _trainings_for(own.id, path)))
    train_all(plan, path, os.cpu_count() or 1, quiet=as_json)
    descriptions = {program.name: program.motivation for program in programs}
    rows = variants_of(_trainings_for(own.id, path), own.id, descriptions)
    if not rows:
        raise NotPossible(f"{folder} holds no program that was trained with two seeds or more")
    if as_json:
        print_json([asdict(variant) for variant in rows])
        return
    say(f"{own.id} {own.proposal.name}, and its variants without a part, {rows[0].seeds} seeds each")
    say(table([
        Column("", [variant.name for variant in rows], flexible=True),
        Column("parameters", [number(variant.parameters, ",") for variant in rows], right=True, rank=2),
        Column("loss", [f"{variant.loss:.4f}" for variant in rows], right=True),
        Column("rise", [f"{variant.rise:+.4f}" for variant in rows], right=True),
        Column("[95 %]", [interval_text(*bounds(variant.interval)) for variant in rows]),
        Column("p", [f"{variant.p:.2g}" for variant in rows], right=True, rank=1),
    ]))  # fmt: skip
    say(styled(paragraph("rise: nats per token above the candidate, same seeds; p: Holm-corrected"), dim=True))


def _trainings_for(candidate: str, path: Path) -> list[Trained]:
    """Without the variants of other candidates, whose files may have the same names."""
    return [training for training in read_sizes(path) if training.ablation_of in ("", candidate)]


async def _ablate(
    settings: ClientSettings, run: str, candidate: str, components: Sequence[str], note: Callable[[str], None]
) -> tuple[pb.Candidate, list[Part]]:
    """Request missing ablations, wait for all, compare; starts services if none run. Raises NotFound, NotPossible."""
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
        await publish(
            client, [_ablation_wanted(original, component) for component in chosen if component not in requested]
        )
        records = await _all_ended(archive, original, chosen, system, note)
    return original, [part for part in parts(original, records) if part.component in chosen]


def components_of(original: pb.Candidate, selection: Sequence[str]) -> list[str]:
    """The components that can be ablated. Raises NotPossible."""
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


def _print(original: pb.Candidate, part_rows: Sequence[Part]) -> None:
    say(f"{original.id} {original.proposal.name}: loss {original.training.loss:.4f} nats per token with all components")
    intervals = [part.gain.interval if part.gain else None for part in part_rows]
    say(table([
        Column("without", [part.component for part in part_rows]),
        Column("id", [part.ablation for part in part_rows], rank=1),
        Column("loss", [number(part.loss) for part in part_rows], right=True),
        Column("gain", [number(part.gain.mean if part.gain else None, "+.4f") for part in part_rows], right=True),
        Column("[95 %]", [interval_text(*bounds(interval)) for interval in intervals], rank=2),
        Column("", [part.reason or verdict_of(part) for part in part_rows], flexible=True),
    ]))  # fmt: skip
    say(styled(paragraph("gain: rise of the loss without the component (nats per token, same seeds)"), dim=True))


def _ablation_wanted(original: pb.Candidate, component: str) -> events_pb2.Event:
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
        for event in system.supervise() if system else ():
            note(event)
        with contextlib.suppress(grpc.aio.AioRpcError):
            records = await all_candidates(archive, archive_pb2.ListCandidatesRequest(run=original.run))
            own = (ablation for ablation in ablations_of(records, original.id) if ablation.state in ENDED)
            ended = {ablation.request.without_component for ablation in own}.intersection(chosen)
            for component in sorted(ended - reported):
                note(f"without {component}: done, {len(ended)} of {len(chosen)}")
            reported = ended
            if len(ended) == len(set(chosen)):
                return records
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _services(
    settings: ClientSettings, stage: str, note: Callable[[str], None]
) -> AsyncIterator[tuple[ClientSettings, System | None]]:
    """Settings that reach running services: those of this folder, those that the environment names, or own ones."""
    if (local := running_system(settings)) is not None:
        yield local.client(settings), None
    elif "ASI_ARCHIVE_ADDRESS" in os.environ:
        yield settings, None
    else:
        note("starting the services …")
        extra = {} if "ASI_ENGINEER_STAGES" in os.environ else {"ASI_ENGINEER_STAGES": stage}
        async with running(settings, extra) as system:
            yield system.client, system
