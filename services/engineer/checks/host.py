"""The host's side of a check: screens, starts a child, asks it, and computes the verdicts."""

import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace

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
PRELOAD = (
    "torch", "services.sandbox.wire", "services.sandbox.integrity",
    "services.engineer.checks.screen", "services.engineer.checks.guest",
)  # fmt: skip
"""For a sandbox in which programs are only checked: its start takes half the time."""
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
"""In the order they run. Those of `structure` are decided here from arrays; the others are the child's own word, which
counts against a program and never for it."""


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
        verdicts += await probe_program(program, sandbox, settings)
    counted = [verdict.evidence.get("parameters") for verdict in verdicts if verdict.probe == "parameters"]
    return CheckReport(
        passed=all(verdict.outcome != "fail" for verdict in verdicts),
        verdicts=tuple(verdicts),
        seconds=time.perf_counter() - started,
        parameters=counted[0] if counted and isinstance(counted[0], int) else None,
        isolation=sandbox.level,
    )


async def check_thoroughly(program: str, sandbox: Sandbox, settings: CheckSettings) -> CheckReport:
    """The check with other values, cuts and layers each time, until one refuses; it passes only if all do."""
    reports = []
    for _ in range(THOROUGH_TIMES):
        reports.append(await check(program, sandbox, replace(settings, seed=None)))
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
        alone = await check(program, sandbox, replace(counting, layers=1, surrounding_parameters=0))
        times = sum(sizes.program_of(layer, "") == program for layer in range(scale.blocks))
        surrounding += times * (alone.parameters or 0)
    root = await check(baselines()[0].program, sandbox, replace(counting, surrounding_parameters=surrounding))
    return replace(settings, surrounding_parameters=surrounding, baseline_parameters=root.parameters)


def _surrounding_parameters(sizes: ModelSizes) -> int:
    """Parameters of the language model without its mixers: embedding, head, norms and feed-forward parts."""
    tables = (1 if sizes.tied else 2) * sizes.vocabulary * sizes.width
    block = 2 * sizes.width + 3 * sizes.width * sizes.feed_forward
    return tables + sizes.blocks * block + sizes.width


async def probe_program(
    program: str, sandbox: Sandbox, settings: CheckSettings, spent: dict[str, float] | None = None
) -> list[Verdict]:
    """The probes alone, whatever the screen says. Raises SandboxUnavailable.

    Into `spent`, where it is given, goes the child's processor time by probe, and by "loading" what came before.
    """
    verdicts: list[Verdict] = []
    spent = {} if spent is None else spent
    during = ["loading"]
    limits = Limits(
        settings.memory_bytes,
        cpu_seconds=settings.seconds,
        wall_seconds=BUSY * settings.seconds,
        files=bool(graphics()),  # what a CPU needs is loaded before
    )
    try:
        async with sandbox.child(JOB, limits) as child:
            seed = secrets.randbits(31) if settings.seed is None else settings.seed
            remote = Remote(child, settings, seed)
            await remote.ask("begin", {"program": program, "settings": settings.to_json()}, {}, expect="ready")
            spent["loading"] = child.processor_seconds()
            await _run_probes(remote, child, verdicts, during, spent)
    except (ChildDied, ChildTimeout, Malformed) as error:
        _end(verdicts, during[0], error.reason, {"log": error.log_tail[-2000:]})
    except ProtocolBroken as error:
        _end(verdicts, during[0], f"the child broke the protocol: {error}", {})
    return verdicts


async def _run_probes(
    remote: Remote, child: Child, verdicts: list[Verdict], during: list[str], spent: dict[str, float]
) -> None:
    passed = set(remote.settings.exempt)
    precise: Remote | None = None
    for probe in PROBES:
        if probe.name in remote.settings.exempt or not probe.reachable(passed):
            continue
        during[0] = probe.name
        began = child.processor_seconds()
        try:
            if probe.name in ADDED:
                precise = precise or await supported(remote)
                finding = await ADDED[probe.name].measure(precise)
            elif probe.name not in STRUCTURE:
                finding = await remote.claim(probe.name)
                if probe.name == "cost" and not finding.violated:
                    measured = await measured_cost(remote, child.processor_seconds)
                    finding = measured if measured.violated else finding
            else:
                precise = precise or await supported(remote)
                finding = await STRUCTURE[probe.name](precise)
        except ProgramRaised as raised:
            evidence: dict[str, JSON] = {"traceback": raised.traceback}
            finding = Finding(True, f"raised {raised.message}", evidence)
        verdicts.append(Verdict.of(probe.name, probe.fatal, finding))
        spent[probe.name] = child.processor_seconds() - began
        if verdicts[-1].outcome != "fail":
            passed.add(probe.name)


def _end(verdicts: list[Verdict], during: str, reason: str, evidence: Mapping[str, JSON]) -> None:
    """The child is gone before it finished: what it did not answer counts as failed."""
    verdicts[:] = [verdict for verdict in verdicts if verdict.probe != "runs"]
    verdicts.append(Verdict("runs", "fail", f"{reason} (during: {during})", {"during": during, **evidence}))
