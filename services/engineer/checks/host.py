"""The host's side of a check: screens, starts a child, asks it, and computes the verdicts."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from services.chassis.errors import SettingsError
from services.chassis.plugins import PROBES as PLUGINS
from services.chassis.plugins import load_plugin, plugin_names
from services.domain.zoo import baselines
from services.engineer.checks.remote import ProgramRaised, ProtocolBroken, Remote
from services.engineer.checks.report import JSON, CheckReport, CheckSettings, Finding, Verdict
from services.engineer.checks.screen import screen_apart
from services.engineer.checks.structure import STRUCTURE, measured_cost, supported
from services.engineer.scales import Scale
from services.engineer.training.sizes import ModelSizes
from services.sandbox import Child, ChildDied, ChildTimeout, Limits, Malformed, Sandbox
from services.sandbox.linux import graphics

JOB = "services.engineer.checks.guest:run"
FIRST_CHILD = ("runs", "parameters", "batch", "causality", "prefix")
"""Half of the work of a check; the second child does the other probes at the same time."""
THOROUGH_TIMES = 4
BUSY = 4
"""Times the processor time that a check may take by the clock: a machine may have other work, which is no fault of the
program."""


@dataclass(frozen=True)
class Probe:
    """A probe's name, what its violation means, and the probes without whose passing it would blame the wrong thing."""

    name: str
    fatal: bool = True
    after: tuple[str, ...] = ("runs",)

    def reachable(self, passed: Collection[str]) -> bool:
        """Whether all that it builds on has passed."""
        return all(name in passed for name in self.after)


_OWN: tuple[Probe, ...] = (
    Probe("runs", after=()),
    Probe("parameters"),
    Probe("repeatability"),
    Probe("life"),
    Probe("finiteness"),
    Probe("batch", after=("runs", "repeatability")),
    Probe("causality", after=("runs", "repeatability", "batch")),
    Probe("prefix", after=("runs", "repeatability", "batch", "causality")),
    Probe("cost"),
    Probe("unused", fatal=False, after=("runs", "life")),
    Probe("drift", fatal=False, after=("runs", "repeatability")),
    Probe("checkpoint", fatal=False, after=("runs", "repeatability")),
    Probe("mask", fatal=False, after=("runs", "repeatability")),
    Probe("decoding", fatal=False, after=("runs", "repeatability", "causality", "prefix")),
    Probe("auxiliary", fatal=False),
)


@dataclass(frozen=True)
class AddedProbe:
    """A probe of another distribution (group asi_arch.probes): its verdict is computed from what `measure` asks."""

    probe: Probe
    measure: Callable[[Remote], Awaitable[Finding]]


def _added() -> dict[str, AddedProbe]:
    """Raises SettingsError for what is no probe, and for a name that exists."""
    added: dict[str, AddedProbe] = {}
    for entry in plugin_names(PLUGINS):
        loaded = load_plugin(PLUGINS, entry)
        if not isinstance(loaded, AddedProbe):
            raise SettingsError(f"{entry!r} of {PLUGINS} must be an AddedProbe, not {loaded!r}")
        if loaded.probe.name in {probe.name for probe in _OWN} | set(added):
            raise SettingsError(f"{entry!r} of {PLUGINS} has the name of another probe, {loaded.probe.name}: rename it")
        added[loaded.probe.name] = loaded
    return added


ADDED = _added()
PROBES = (*_OWN, *(added.probe for added in ADDED.values()))
"""In the order of their verdicts."""
HOST_SIDE: Mapping[str, Callable[[Remote], Awaitable[Finding]]] = MappingProxyType(
    {**STRUCTURE, **{name: added.measure for name, added in ADDED.items()}}
)
"""Probes that are decided here from arrays. The others are the child's own word, which counts against a program and
never for it."""


async def check(
    program: str, sandbox: Sandbox, settings: CheckSettings | None = None, screened: Finding | None = None
) -> CheckReport:
    """Screens the program and, unless that refuses it, probes it in a child of `sandbox`.

    Whatever the program does is an answer: a crash, a limit or silence is a failed `runs` that names the probe under
    way. Raises SandboxUnavailable where no child can be started at all. `screened` is what the screen found, where that
    is known.
    """
    settings = settings or CheckSettings()
    started = time.perf_counter()
    screened = screened or await screen_apart(program, sandbox, settings.program_bytes)
    verdicts = [Verdict.of("screen", True, screened)]
    if not screened.violated:
        verdicts += await probe_program(program, sandbox, settings)
    return CheckReport(
        passed=all(verdict.outcome != "fail" for verdict in verdicts),
        verdicts=tuple(verdicts),
        seconds=time.perf_counter() - started,
        parameters=_parameters_of(verdicts),
        isolation=sandbox.level,
    )


async def check_thoroughly(
    program: str, sandbox: Sandbox, settings: CheckSettings, screened: Finding | None = None
) -> CheckReport:
    """The check with other values, cuts and layers each time, until one refuses; it passes only if all do."""
    reports = []
    for _ in range(THOROUGH_TIMES):
        reports.append(await check(program, sandbox, replace(settings, seed=None), screened))
        if not reports[-1].passed:
            break
    return replace(reports[-1], seconds=sum(report.seconds for report in reports))


async def stage_settings(scale: Scale, vocabulary: int, sandbox: Sandbox) -> CheckSettings:
    """What a candidate of a scale is checked with: the sizes, and the root's parameters, counted in a child."""
    sizes = ModelSizes.of(scale, vocabulary)
    settings = CheckSettings(
        width=scale.width,
        heads=scale.heads,
        layers=scale.own_layers,
        length=scale.context,
        batch=scale.micro_batch,
        precision=scale.precision,
        whole_model=sizes.whole_model,
        surrounding_parameters=_surrounding_parameters(sizes),
    )
    counting = replace(settings, exempt=tuple(probe.name for probe in PROBES if probe.name != "parameters"))
    surrounding = settings.surrounding_parameters
    for program in set(sizes.layers) - {""}:
        alone = await probe_program(program, sandbox, replace(counting, layers=1, surrounding_parameters=0))
        times = sum(sizes.program_of(layer, "") == program for layer in range(scale.blocks))
        surrounding += times * (_parameters_of(alone) or 0)
    counting = replace(counting, surrounding_parameters=surrounding)
    root = await probe_program(baselines()[0].program, sandbox, counting)
    return replace(settings, surrounding_parameters=surrounding, baseline_parameters=_parameters_of(root))


def _parameters_of(verdicts: Sequence[Verdict]) -> int | None:
    counted = [verdict.evidence.get("parameters") for verdict in verdicts if verdict.probe == "parameters"]
    return counted[0] if counted and isinstance(counted[0], int) else None


def _surrounding_parameters(sizes: ModelSizes) -> int:
    """Parameters of the language model without its mixers: embedding, head, norms and feed-forward parts."""
    tables = (1 if sizes.tied else 2) * sizes.vocabulary * sizes.width
    block = 2 * sizes.width + 3 * sizes.width * sizes.feed_forward
    return tables + sizes.blocks * block + sizes.width


@dataclass
class _Probing:
    """What two children of one program have answered so far, each with probes of its own.

    Attributes:
        failed: fatal probes that found something, and those that were not reached because of them.
        tried: set when it is known whether the program runs at all; the second child begins then.
        spent: processor time by probe.
        ended: the verdict on a child that ended before it had answered.
    """

    program: str
    sandbox: Sandbox
    settings: CheckSettings
    spent: dict[str, float]
    findings: dict[str, Finding] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    ended: Verdict | None = None

    async def run(self, probes: Sequence[Probe], seed: int, later: bool = False) -> None:
        """The probes in a child, until one of the two children has ended; `later`: once the program is known to run."""
        settings, during = self.settings, "loading"
        limits = Limits(
            settings.memory_bytes,
            cpu_seconds=settings.seconds,
            wall_seconds=BUSY * settings.seconds,
            files=bool(graphics()),  # what a CPU needs is loaded before
        )
        try:
            async with self.sandbox.child(JOB, limits) as child:
                remote, precise = Remote(child, settings, seed), None
                begin: dict[str, JSON] = {"program": self.program, "settings": settings.to_json()}
                await remote.ask("begin", begin, {}, expect="ready")
                self.spent["loading"] = self.spent.get("loading", 0.0) + child.processor_seconds()
                if later:
                    await self.tried.wait()
                for probe in probes:
                    if self.ended is not None:
                        return
                    if not self.failed.isdisjoint(probe.after):
                        self.failed.add(probe.name)
                        continue
                    during, began = probe.name, child.processor_seconds()
                    try:
                        if probe.name in HOST_SIDE:
                            precise = precise or await supported(remote)
                        finding = await self._finding(probe.name, precise or remote, child)
                    except ProgramRaised as raised:
                        evidence: dict[str, JSON] = {"traceback": raised.traceback}
                        finding = Finding(True, f"raised {raised.message}", evidence)
                    self.findings[probe.name] = finding
                    self.spent[probe.name] = child.processor_seconds() - began
                    if probe.fatal and finding.violated:
                        self.failed.add(probe.name)
                    self.tried.set()
        except (ChildDied, ChildTimeout, Malformed) as error:
            self._end(during, error.reason, {"log": error.log_tail[-2000:]})
        except ProtocolBroken as error:
            self._end(during, f"the child broke the protocol: {error}", {})
        finally:
            self.tried.set()

    async def _finding(self, name: str, program: Remote, child: Child) -> Finding:
        if name in HOST_SIDE:
            return await HOST_SIDE[name](program)
        finding = await program.claim(name)
        if name == "cost" and not finding.violated:
            measured = await measured_cost(program, child.processor_seconds)
            finding = measured if measured.violated else finding
        return finding

    def _end(self, during: str, reason: str, evidence: Mapping[str, JSON]) -> None:
        """A child is gone before it finished: what it did not answer counts as failed."""
        message = f"{reason} (during: {during})"
        self.ended = self.ended or Verdict("runs", "fail", message, {"during": during, **evidence})

    def verdicts(self) -> list[Verdict]:
        """Those that were reached, in the order of the probes."""
        passed, verdicts = set(self.settings.exempt), list[Verdict]()
        for probe in PROBES:
            if probe.name in self.findings and probe.reachable(passed):
                verdicts.append(Verdict.of(probe.name, probe.fatal, self.findings[probe.name]))
                if verdicts[-1].outcome != "fail":
                    passed.add(probe.name)
        if self.ended is None:
            return verdicts
        return [*(verdict for verdict in verdicts if verdict.probe != "runs"), self.ended]


async def probe_program(
    program: str, sandbox: Sandbox, settings: CheckSettings, spent: dict[str, float] | None = None
) -> list[Verdict]:
    """The probes alone, whatever the screen says. Raises SandboxUnavailable.

    In two children side by side, with half of the work each. Into `spent`, where it is given, goes their processor time
    by probe, and by "loading" what came before.
    """
    probing = _Probing(program, sandbox, settings, {} if spent is None else spent)
    seed = secrets.randbits(31) if settings.seed is None else settings.seed
    wanted = [probe for probe in PROBES if probe.name not in settings.exempt]
    first = [probe for probe in wanted if probe.name in FIRST_CHILD]
    second = [probe for probe in wanted if probe not in first]
    pending = {asyncio.create_task(probing.run(first, seed))} if first else set[asyncio.Task[None]]()
    if second:
        pending.add(asyncio.create_task(probing.run(second, seed, later=bool(first))))
    try:
        while pending and probing.ended is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()  # once: again would disturb the end of its child; a dropped one shows in `ended`
        if pending:
            await asyncio.wait(pending)
    return probing.verdicts()
