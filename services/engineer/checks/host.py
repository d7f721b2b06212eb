"""The host's side of a check: screens a program, probes it in child processes, and computes the verdicts."""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType

from services.domain.zoo import baselines
from services.engineer.checks.remote import ProgramRaised, ProtocolBroken, Remote
from services.engineer.checks.report import JSON, CheckReport, CheckSettings, Finding, Verdict
from services.engineer.checks.screen import screen_apart
from services.engineer.checks.structure import (
    FEWEST_LAYERS,
    HOST_PROBES,
    TOKEN_LIMIT,
    measured_cost,
    probed_layers,
    probed_shape,
)
from services.engineer.scales import Scale
from services.engineer.training.sizes import model_sizes
from services.mixers.plugins import PROBES as PLUGINS
from services.mixers.plugins import load_all
from services.sandbox import Child, ChildDied, ChildTimeout, Limits, Malformed, Sandbox
from services.sandbox.linux import nvidia_devices

JOB = "services.engineer.checks.child:run"
FIRST_CHILD = ("runs", "parameters", "batch", "causality", "prefix")
"""Half of the work of a check; a second child runs the other probes concurrently."""
PER_LAYER = ("cost", "unused")
"""Probes of the child that the host repeats in other layers: a mixer may be built differently there."""
THOROUGH_TIMES = 4
_TOO_SLOW = ": half of a check may use {:g} s; end every loop, and compute in chunks instead of single positions"
WALL_PER_CPU = 12
"""Wall-clock limit of a check as a multiple of its CPU limit, as the machine may be busy."""


@dataclass(frozen=True)
class Probe:
    """A probe's name, whether a violation rejects the program, and the probes that must pass `after` which it runs."""

    name: str
    fatal: bool = True
    after: tuple[str, ...] = ("runs",)


BUILT_IN: tuple[Probe, ...] = (
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
    """A probe from another distribution (entry point group asi_arch.probes)."""

    probe: Probe
    measure: Callable[[Remote], Awaitable[Finding]]


ADDED = load_all(PLUGINS, AddedProbe, lambda added: added.probe.name, (probe.name for probe in BUILT_IN))
PROBES = (*BUILT_IN, *(added.probe for added in ADDED))
"""All probes, in the order of their verdicts."""
HOST_SIDE: Mapping[str, Callable[[Remote], Awaitable[Finding]]] = MappingProxyType(
    {**HOST_PROBES, **{added.probe.name: added.measure for added in ADDED}}
)
"""Probes that the host decides from arrays. The child reports on the others, which can only reject a program."""


async def check(
    program: str, sandbox: Sandbox, settings: CheckSettings | None = None, screened: Finding | None = None
) -> CheckReport:
    """Screen the program and, if that passes, probe it in children of `sandbox`.

    A crash, an exceeded limit or a missing answer is a failed `runs` that names the current probe. `screened` is the
    screen's finding if known. Raises SandboxUnavailable.
    """
    settings = settings or CheckSettings()
    started = time.perf_counter()
    screened = screened or await screen_apart(program, sandbox)
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
    """Repeat the check with other values, cuts and layers until one fails; all must pass."""
    reports = []
    for _ in range(THOROUGH_TIMES):
        reports.append(await check(program, sandbox, replace(settings, seed=None), screened))
        if not reports[-1].passed:
            break
    return replace(reports[-1], seconds=sum(report.seconds for report in reports))


async def stage_settings(scale: Scale, vocabulary: int, sandbox: Sandbox) -> CheckSettings:
    """Check settings for a scale: its sizes, the time for them, and the root's parameters as counted in a child."""
    sizes = model_sizes(scale, vocabulary)
    # of the model without its mixers: embedding, head, norms and feed-forward layers
    tables = (1 if sizes.tied else 2) * sizes.vocabulary * sizes.width
    block = 2 * sizes.width + 3 * sizes.width * sizes.feed_forward
    settings = CheckSettings(
        width=scale.width,
        heads=scale.heads,
        layers=scale.own_layers,
        length=scale.context,
        batch=scale.micro_batch,
        precision=scale.precision,
        whole_model=sizes.whole_model,
        surrounding_parameters=tables + sizes.blocks * block + sizes.width,
    )
    work = FEWEST_LAYERS * math.prod(probed_shape(settings)) * scale.width / 128 / TOKEN_LIMIT
    settings = replace(settings, seconds=settings.seconds * max(1.0, work))
    counting = replace(settings, exempt=tuple(probe.name for probe in PROBES if probe.name != "parameters"))
    surrounding = settings.surrounding_parameters
    for program in set(sizes.layers) - {""}:
        verdicts = await probe_program(program, sandbox, replace(counting, layers=1, surrounding_parameters=0))
        layers = sum(sizes.program_of(layer, "") == program for layer in range(scale.blocks))
        surrounding += layers * (_parameters_of(verdicts) or 0)
    counting = replace(counting, surrounding_parameters=surrounding)
    root = await probe_program(baselines()[0].program, sandbox, counting)
    return replace(settings, surrounding_parameters=surrounding, baseline_parameters=_parameters_of(root))


def _parameters_of(verdicts: Sequence[Verdict]) -> int | None:
    count = next((verdict.evidence.get("parameters") for verdict in verdicts if verdict.probe == "parameters"), None)
    return count if isinstance(count, int) else None


@dataclass
class _Probing:
    """The state of one program's check, shared by its two children."""

    program: str
    sandbox: Sandbox
    settings: CheckSettings
    cpu_seconds: dict[str, float]  # by probe
    findings: dict[str, Finding] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)  # fatal probes with a violation, and those skipped because of them
    first_probe_done: asyncio.Event = field(default_factory=asyncio.Event)  # when the second child starts its own
    crash: Verdict | None = None  # on a child that ended before it answered

    async def run(self, probes: Sequence[Probe], seed: int, second: bool = False) -> None:
        """Run probes in a child until either child has ended; the second one waits for the first one's first probe."""
        settings, current = self.settings, "loading"
        limits = Limits(
            settings.memory_bytes,
            cpu_seconds=settings.seconds,
            wall_seconds=WALL_PER_CPU * settings.seconds,
            files=bool(nvidia_devices()),  # on a CPU, everything is loaded beforehand
        )
        try:
            async with self.sandbox.child(JOB, limits) as child:
                remote, precise = Remote(child, settings, seed), None
                begin: dict[str, JSON] = {"program": self.program, "settings": asdict(settings)}
                await remote.ask("begin", begin, {}, expect="ready")
                self.cpu_seconds["loading"] = self.cpu_seconds.get("loading", 0.0) + child.processor_seconds()
                if second:
                    await self.first_probe_done.wait()
                for probe in probes:
                    if self.crash is not None:
                        return
                    if not self.failed.isdisjoint(probe.after):
                        self.failed.add(probe.name)
                        continue
                    current, start = probe.name, child.processor_seconds()
                    try:
                        if probe.name in HOST_SIDE.keys() - {"parameters"}:  # which are counted without a forward
                            precise = precise or await remote.supported()
                        finding = await self._finding(probe.name, precise or remote, child)
                    except ProgramRaised as raised:
                        evidence: dict[str, JSON] = {"traceback": raised.traceback}
                        finding = Finding(True, raised.message, evidence)
                    self.findings[probe.name] = finding
                    self.cpu_seconds[probe.name] = child.processor_seconds() - start
                    if probe.fatal and finding.violated:
                        self.failed.add(probe.name)
                    self.first_probe_done.set()
        except (ChildDied, ChildTimeout, Malformed) as error:
            self._crashed(current, error.reason, {"log": error.log_tail[-2000:]})
        except ProtocolBroken as error:
            self._crashed(current, f"the child broke the protocol: {error}", {})
        finally:
            self.first_probe_done.set()

    async def _finding(self, name: str, program: Remote, child: Child) -> Finding:
        if name in HOST_SIDE:
            return await HOST_SIDE[name](program)
        finding = await program.run_probe(name)
        for layer in probed_layers(program)[1:] if name in PER_LAYER and not finding.violated else ():
            further = await program.at(layer).run_probe(name)
            if further.violated:
                return replace(further, message=f"layer {layer}: {further.message}")
        if name == "cost" and not finding.violated:
            measured = await measured_cost(program, child.processor_seconds)
            return measured if measured.violated else finding
        return finding

    def _crashed(self, probe: str, reason: str, evidence: Mapping[str, JSON]) -> None:
        advice = _TOO_SLOW.format(self.settings.seconds) if "processor time" in reason else ""
        message = f"{reason} (during: {probe}){advice}"
        self.crash = self.crash or Verdict("runs", "fail", message, {"during": probe, **evidence})

    def verdicts(self) -> list[Verdict]:
        """Verdicts of the probes whose dependencies passed, in order."""
        passed, verdicts = set(self.settings.exempt), list[Verdict]()
        for probe in PROBES:
            if probe.name in self.findings and passed.issuperset(probe.after):
                verdicts.append(Verdict.of(probe.name, probe.fatal, self.findings[probe.name]))
                if verdicts[-1].outcome != "fail":
                    passed.add(probe.name)
        if self.crash is None:
            return verdicts
        return [*(verdict for verdict in verdicts if verdict.probe != "runs"), self.crash]


async def probe_program(
    program: str, sandbox: Sandbox, settings: CheckSettings, cpu_seconds: dict[str, float] | None = None
) -> list[Verdict]:
    """Run the probes without the screen, in two concurrent children. Raises SandboxUnavailable.

    `cpu_seconds` receives their CPU time by probe; its key "loading" stands for the start.
    """
    probing = _Probing(program, sandbox, settings, {} if cpu_seconds is None else cpu_seconds)
    seed = secrets.randbits(31) if settings.seed is None else settings.seed
    probes = [probe for probe in PROBES if probe.name not in settings.exempt]
    first = [probe for probe in probes if probe.name in FIRST_CHILD]
    second = [probe for probe in probes if probe not in first]
    pending = {asyncio.create_task(probing.run(first, seed))} if first else set[asyncio.Task[None]]()
    if second:
        pending.add(asyncio.create_task(probing.run(second, seed, second=bool(first))))
    try:
        while pending and probing.crash is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()  # once: a second cancellation would disturb the end of its child
        if pending:
            await asyncio.wait(pending)
    return probing.verdicts()
