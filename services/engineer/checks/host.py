"""The host's side of a check: screens, starts a child, and turns what the child claims into verdicts."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from services.domain.zoo import baselines
from services.engineer.checks.registry import PROBES, Probe
from services.engineer.checks.report import JSON, CheckReport, Finding, Verdict
from services.engineer.checks.screen import screen_apart
from services.engineer.checks.settings import CheckSettings
from services.engineer.scales import Scale
from services.engineer.training.sizes import ModelSizes
from services.sandbox import Child, ChildDied, ChildTimeout, Limits, Malformed, Sandbox

JOB = "services.engineer.checks.guest:run"
PRELOAD = (
    "torch", "services.sandbox.wire", "services.sandbox.integrity",
    "services.engineer.checks.screen", "services.engineer.checks.guest",
)  # fmt: skip
"""For a sandbox in which programs are only checked: its start takes half the time."""
THOROUGH_SEEDS = (0, 1, 2, 3)


async def check(program: str, sandbox: Sandbox, settings: CheckSettings | None = None) -> CheckReport:
    """Screens the program and, unless that refuses it, probes it in a child of `sandbox`.

    Whatever the program does is an answer: a crash, a limit or silence is a failed `runs` that names the probe under
    way. Raises SandboxUnavailable where no child can be started at all.
    """
    settings = settings or CheckSettings()
    started = time.perf_counter()
    screened = Verdict.of("screen", True, await screen_apart(program, sandbox, settings.program_bytes))
    verdicts = [screened]
    if screened.outcome != "fail":
        verdicts += await _probed(program, sandbox, settings)
    return CheckReport(
        passed=all(verdict.outcome != "fail" for verdict in verdicts),
        verdicts=tuple(verdicts),
        seconds=time.perf_counter() - started,
        parameters=_parameters(verdicts),
        isolation=sandbox.level,
    )


async def check_thoroughly(program: str, sandbox: Sandbox, settings: CheckSettings) -> CheckReport:
    """The check under several seeds, until one refuses; it passes only if all do."""
    reports = []
    for seed in THOROUGH_SEEDS:
        reports.append(await check(program, sandbox, replace(settings, seed=seed)))
        if not reports[-1].passed:
            break
    return replace(reports[-1], seconds=sum(report.seconds for report in reports))


async def stage_settings(scale: Scale, vocabulary: int, sandbox: Sandbox) -> CheckSettings:
    """What a candidate of a scale is checked with: the sizes, and the root's parameters, counted in a child."""
    sizes = ModelSizes.of(scale, vocabulary)
    settings = CheckSettings(
        width=scale.width,
        heads=scale.heads,
        layers=scale.blocks,
        surrounding_parameters=_surrounding_parameters(sizes),
    )
    others = tuple(probe.name for probe in PROBES if probe.name != "parameters")
    root = await check(baselines()[0].program, sandbox, replace(settings, exempt=others))
    return replace(settings, baseline_parameters=root.parameters)


def _surrounding_parameters(sizes: ModelSizes) -> int:
    """Parameters of the language model without its mixers: embedding, head, norms and feed-forward parts."""
    tables = (1 if sizes.tied else 2) * sizes.vocabulary * sizes.width
    block = 2 * sizes.width + 3 * sizes.width * sizes.feed_forward
    return tables + sizes.blocks * block + sizes.width


async def _probed(program: str, sandbox: Sandbox, settings: CheckSettings) -> list[Verdict]:
    claims = Claims(settings.exempt)
    limits = Limits(settings.memory_bytes, cpu_seconds=settings.seconds, wall_seconds=settings.seconds)
    try:
        async with sandbox.child(JOB, limits) as child:
            await child.send("check", {"program": program, "settings": settings.to_json()})
            async for kind, header in _messages(child, settings.seconds):
                claims.take(kind, header)
    except (ChildDied, ChildTimeout, Malformed) as error:
        claims.end(str(error), {"log": error.log_tail[-2000:]})
    except ClaimError as error:
        claims.end(f"the child broke the protocol: {error}", {})
    return claims.verdicts


async def _messages(child: Child, seconds: float) -> AsyncIterator[tuple[str, Mapping[str, JSON]]]:
    """Everything the child says up to `finished`, within `seconds` in all."""
    deadline = time.monotonic() + seconds
    while True:
        message = await child.receive(timeout=max(deadline - time.monotonic(), 0.0))
        yield message.kind, message.header
        if message.kind == "finished":
            return


class ClaimError(Exception):
    """A message that an honest guest would not send. Says which."""


class Claims:
    """Follows what a child claims. It may only report probes of the registry, each once, in order, begun before ended,
    and finish when none that its own findings leave reachable is missing."""

    def __init__(self, exempt: tuple[str, ...]) -> None:
        self.verdicts: list[Verdict] = []
        self._passed = set(exempt)
        self._due = [probe for probe in PROBES if probe.name not in exempt]
        self._under_way: Probe | None = None

    def take(self, kind: str, header: Mapping[str, JSON]) -> None:
        """Takes one message. Raises ClaimError for what an honest guest would not send."""
        if kind == "started":
            self._begin(header.get("probe"))
        elif kind == "finding":
            self._conclude(header)
        elif kind == "finished":
            self._finish()
        else:
            raise ClaimError(f"message {kind!r} is unknown")

    def end(self, reason: str, evidence: Mapping[str, JSON]) -> None:
        """The child is gone before it finished: what it did not answer counts as failed."""
        during = self._under_way.name if self._under_way else "loading"
        said: dict[str, JSON] = {"during": during, **evidence}
        self.verdicts = [verdict for verdict in self.verdicts if verdict.probe != "runs"]
        self.verdicts.append(Verdict("runs", "fail", f"{reason} (during: {during})", said))

    def _next(self) -> Probe | None:
        while self._due and not self._due[0].reachable(self._passed):
            self._due.pop(0)
        return self._due[0] if self._due else None

    def _begin(self, name: JSON) -> None:
        expected = self._next()
        if self._under_way or expected is None or name != expected.name:
            raise ClaimError(f"probe {name!r} is not the one to begin")
        self._under_way = self._due.pop(0)

    def _conclude(self, header: Mapping[str, JSON]) -> None:
        probe = self._under_way
        if probe is None or header.get("probe") != probe.name:
            raise ClaimError(f"probe {header.get('probe')!r} is not under way")
        verdict = Verdict.of(probe.name, probe.fatal, _finding(header))
        if verdict.outcome != "fail":
            self._passed.add(probe.name)
        self.verdicts.append(verdict)
        self._under_way = None

    def _finish(self) -> None:
        if self._under_way or self._next():
            raise ClaimError("it finished before all probes were run")


def _finding(header: Mapping[str, JSON]) -> Finding:
    try:
        return Finding.from_json(header)
    except ValueError as error:
        raise ClaimError(str(error)) from error


def _parameters(verdicts: list[Verdict]) -> int | None:
    counted = [verdict.evidence.get("parameters") for verdict in verdicts if verdict.probe == "parameters"]
    return counted[0] if counted and isinstance(counted[0], int) else None
