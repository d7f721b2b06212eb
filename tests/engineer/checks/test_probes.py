"""The zoo of programs: each bad one violates just the probe of its folder, each near miss none.

The programs are ours, in the style of what language models write.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from services.domain.zoo import baseline, baselines
from services.engineer.checks.compare import Values
from services.engineer.checks.host import PROBES, check, stage_settings
from services.engineer.checks.metering import Cost, judged_exponents
from services.engineer.checks.remote import Remote
from services.engineer.checks.report import JSON, CheckReport, CheckSettings, report_text
from services.engineer.checks.structure import FEWEST_LAYERS, TOKEN_LIMIT, probed_shape, steep_growth
from services.engineer.scales import load_scale
from services.sandbox import Child, ChildTimeout, Message, Sandbox

ZOO = Path(__file__).parent / "zoo"
BAD = sorted(ZOO.glob("*/bad_*.py"))
NEAR = sorted(ZOO.glob("*/near_*.py"))
FATAL = {probe.name for probe in PROBES if probe.fatal} | {"screen"}
# DeltaNet's two mixers at the sizes of scale tiny: what the budget of parameters is measured by.
SETTINGS = CheckSettings(baseline_parameters=135_232)
ADVICE = {
    "bad_chunk_summary": "first seen in line 57 (DeltaNet.forward): mixed = mixed * self.gate(summary).sigmoid(): ",
    "bad_length_gate": "+ (1 - gate) * hidden_states: compute nothing from the length of the input, such as position /",
    "bad_windows_by_length": "first seen in line 30 (DeltaNet.forward): mixed = mixed + weights[..., index, None]",
    "bad_growing_filter": "an FFT's rounding looks alike: bound decays",
    "bad_rows_end_to_end": "batch_first=True",
    "bad_whole_chunks_only": "(batch 1, length 1): inputs may have any batch and length, so pad the end to whole",
    "batch": "take no mean over the batch, and sort with stable=True",
    "parameters": "of at most 2.5 ×; the largest of layer 0: experts.0.weight [256, 128], ",
    "prefix": "position / length",
    "repeatability": "keep no state outside of self",
    "unused": "no gradient reaches: g_proj.weight",
    "drift": "if self.training only",
    "checkpoint": "persistent buffers",
    "mask": "(cu_seqlens) with a new state",
    "decoding": "each convolution's last inputs",
}
"""What the message of a probe, or on one program, says of the cause or the remedy, as its author reads nothing else."""
FIRST_OF_EACH = {min(folder.glob("bad_*.py")) for folder in ZOO.iterdir() if folder.is_dir()}

pytestmark = pytest.mark.asyncio(loop_scope="session")


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def text_of(path: Path) -> str:
    return path.read_text()


def cases(paths: list[Path]) -> list[object]:
    """The first bad program of each probe runs always, the others with the slow tests."""
    slow = pytest.mark.slow
    return [pytest.param(path, id=name_of(path), marks=() if path in FIRST_OF_EACH else slow) for path in paths]


def complaints(report: CheckReport) -> list[str]:
    return [verdict.probe for verdict in report.verdicts if verdict.outcome != "pass"]


@pytest.mark.parametrize("path", cases(BAD))
async def test_a_violation_is_found_by_its_probe_alone(path: Path, sandbox: Sandbox) -> None:
    """One fault, one complaint, with evidence that a rewriter can use."""
    report = await check(text_of(path), sandbox, SETTINGS)

    (verdict,) = (failed for failed in report.verdicts if failed.outcome != "pass")
    assert verdict.probe == path.parent.name
    assert verdict.outcome == ("fail" if path.parent.name in FATAL else "warn")
    assert report.passed == (verdict.outcome == "warn")
    assert verdict.message
    if path in FIRST_OF_EACH or path.stem in ADVICE:
        assert ADVICE.get(path.stem, ADVICE.get(verdict.probe, "")) in verdict.message


@pytest.mark.parametrize("path", cases(NEAR))
async def test_a_near_miss_passes(path: Path, sandbox: Sandbox) -> None:
    """What only looks like the fault is left alone."""
    assert complaints(await check(text_of(path), sandbox, SETTINGS)) == []


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
async def test_known_good_architectures_pass(name: str, sandbox: Sandbox) -> None:
    """A check that refuses DeltaNet would refuse everything built on it."""
    assert complaints(await check(baseline(name).program, sandbox, SETTINGS)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [baseline.name for baseline in baselines() if baseline.role != "reference"])
async def test_the_whole_zoo_passes(name: str, sandbox: Sandbox) -> None:
    """Every baseline is a candidate like any other."""
    assert complaints(await check(baseline(name).program, sandbox, SETTINGS)) == []


async def test_softmax_attention_is_refused_by_its_cost_alone_and_may_be_exempt(sandbox: Sandbox) -> None:
    """The upper reference of every run."""
    program = baseline("softmax_attention").program
    assert complaints(await check(program, sandbox, SETTINGS)) == ["cost"]
    assert (await check(program, sandbox, CheckSettings(exempt=("cost",)))).passed


@pytest.mark.parametrize(
    ("precision", "sound", "refused", "other"),
    [
        ("fp32", "adds_in_fp32", "casts_to_bf16", "bf16-autocast"),
        ("bf16-autocast", "casts_to_bf16", "adds_in_fp32", "fp32"),
    ],
)
async def test_a_program_is_checked_in_the_arithmetic_of_its_training(
    precision: str, sound: str, refused: str, other: str, sandbox: Sandbox
) -> None:
    """One that casts by hand may run in the other alone, and would fail in its first step."""
    bf16 = text_of(ZOO / "runs" / "bad_casts_to_bf16.py")
    programs = {
        "casts_to_bf16": bf16,
        "adds_in_fp32": bf16.replace("hidden_states = hidden_states.to(torch.bfloat16)", "").replace(
            "return self.o_proj(mixed),",
            "places = torch.arange(mixed.shape[1])\n"
            "        return torch.zeros_like(hidden_states).index_add(1, places, self.o_proj(mixed)),",
        ),
    }
    settings = replace(SETTINGS, precision=precision)

    assert complaints(await check(programs[sound], sandbox, settings)) == []
    report = await check(programs[refused], sandbox, settings)
    assert complaints(report) == ["runs"]
    assert f"training here computes in {precision}, but" in report.verdicts[-1].message
    assert f"it trains with --set precision={other}" in report.verdicts[-1].message
    assert "x.dtype" in report.verdicts[-1].message

    report = await check(programs[refused], sandbox, replace(settings, precision="auto"))
    assert complaints(report) == []
    assert f"in {other} only; for {precision}, " in report.verdicts[1].message
    assert f"it trains with --set precision={other}" in report.verdicts[1].message


FAILS_DEEP = """
import torch
from torch import nn


class DeltaNet(nn.Module):
    def __init__(self, hidden_size, **options):
        super().__init__()
        self.wide = nn.Linear(hidden_size, 2 * hidden_size)

    def forward(self, hidden_states, **options):
        return self.mixed(self.wide(hidden_states), hidden_states)

    def mixed(self, wide, hidden_states):
        return wide @ hidden_states
"""


async def test_a_failure_in_forward_shows_the_frames_of_the_program_alone(sandbox: Sandbox) -> None:
    """The check's own frames and torch's would hide the line to mend."""
    report = await check(FAILS_DEEP, sandbox, SETTINGS)
    text = report_text(report, verbose=False)

    assert complaints(report) == ["runs"]
    assert "      batch 2, length 64, precision" in text
    assert (
        text.index("line 12, in forward") < text.index("line 15, in mixed") < text.rindex("return wide @ hidden_states")
    )
    assert "site-packages" not in text
    assert "child_probes" not in text


async def test_a_failed_assertion_comes_with_the_sizes_that_it_may_be_about(sandbox: Sandbox) -> None:
    """Some layers take short inputs by another path, which they refuse in training."""
    program = FAILS_DEEP.replace("return self.mixed(", "assert hidden_states.shape[1] > 64; return self.mixed(")
    report = await check(program, sandbox, SETTINGS)

    assert "assert hidden_states.shape[1] > 64" in report.verdicts[-1].message
    assert report.verdicts[-1].message.endswith("(batch 2, length 64)")


async def test_a_program_that_is_too_slow_is_told_the_limit(sandbox: Sandbox) -> None:
    """A kill alone looks like a fault of the check."""
    program = FAILS_DEEP.replace("return self.mixed(", "while True: (")
    report = await check(program, sandbox, replace(SETTINGS, seconds=1.0))

    assert "): half of a check may use 1 s; end every loop" in report.verdicts[-1].message


HANDS_ON = """
from torch import nn


class DeltaNet(nn.Module):
    def __init__(self, hidden_size, layer_idx):
        super().__init__()
        self.project, self.layer_idx = nn.Linear(hidden_size, hidden_size), layer_idx

    def forward(self, hidden_states, first=None):
        return self.project(hidden_states) + (first if self.layer_idx else 0)
"""


async def test_an_error_of_a_later_layer_names_the_layer(sandbox: Sandbox) -> None:
    """Some layers expect what the first one hands on, such as its values, which the others do not get here."""
    report = await check(HANDS_ON, sandbox, SETTINGS)

    assert complaints(report)[0] == "repeatability"
    assert "(layer 1, which gets its hidden states alone and nothing that other layers keep, batch 2, length 65)" in (
        report.verdicts[3].message
    )


@pytest.mark.slow
async def test_the_message_names_the_cause(sandbox: Sandbox) -> None:
    """These named another one, such as a gradient that the program does not compute, no line, or no remedy."""
    returns_input = text_of(ZOO / "life" / "bad_returns_its_input.py")
    keeps_graph = text_of(ZOO / "runs" / "bad_keeps_its_graph.py")
    projects = returns_input.replace("self.project(hidden_states)", "x = self.project(hidden_states)")
    without = returns_input.replace("self.project(hidden_states)", "return hidden_states.detach()")
    draws_noise = projects.replace("return hidden_states", "return x + x.detach().normal_()")
    makes_layers = projects.replace("return hidden_states", "return nn.Linear(x.shape[-1], x.shape[-1])(x)")
    detaches = projects.replace("return hidden_states", "return x if self.training else x.detach()")
    layered = text_of(ZOO / "finiteness" / "bad_root_of_energy.py")
    masked = projects.replace("return hidden_states", "return x + x.new_full((9, 9), -float('inf')).softmax(-1).sum()")
    loop = text_of(ZOO / "cost" / "near_loop_over_positions.py")
    copied = loop.replace("states.append(state)", "states = torch.cat([*states[:1], state[:, None]], 1)[None]")
    copied = copied.replace("torch.stack(states, 1)", "states[0]")
    causes = {
        projects.replace("return hidden_states", "return x.mT"): "forward takes and returns [batch, length, width]",
        projects.replace("return hidden_states", "return x[:, :1500]"): "must accept inputs of any length",
        copied: "states = torch.cat([*states[:1], state[:, None]], 1)[None]; in each step of a loop, update a state",
        text_of(ZOO / "cost" / "bad_decay_mask.py"): "line 58 (DeltaNet.forward): reach = torch.exp(",
        text_of(ZOO / "cost" / "bad_backward_over_all_pairs.py"): "line 15 (RunningSum.backward): return torch.ones(",
        layered: "first in line 55 (forward): energy = rearrange(hidden_states",
        masked: "the output is not finite for standard normal inputs, first in line",
        returns_input: "none of the 2 parameters receives a gradient",
        keeps_graph: "of its own earlier calls as x.detach()",
        without: "without torch.no_grad() and detach()",
        detaches: "the output has no gradient: remove",
        draws_noise: "first seen in line 13 (Unreturned.forward): return x + x.detach().normal_(): draw random",
        makes_layers: "return nn.Linear(x.shape[-1], x.shape[-1])(x): draw random numbers if self.training only; ",
    }
    for program, cause in causes.items():
        report = await check(program, sandbox, SETTINGS)
        assert cause in next(verdict.message for verdict in report.verdicts if verdict.outcome == "fail")


async def test_a_peak_that_rises_above_a_constant_one_is_not_steep() -> None:
    """The gradient of a table is as large at all lengths, and hides the growth of the rest up to some length."""
    costs = [Cost(1, 1, 8, 100), Cost(2, 2, 8, 101), Cost(4, 4, 16, 200)]

    assert max(judged_exponents(costs).values()) == 1.0
    assert min(judged_exponents([*costs, Cost(16, 16, 64, 800)]).values()) > 1.5


class SlowChild:
    """Answers only after `waits` timeouts, in each of which it uses some CPU time."""

    def __init__(self, waits: int, cpu_seconds: float) -> None:
        self.waits, self.cpu_seconds, self.used = waits, cpu_seconds, 0.0

    def processor_seconds(self) -> float:
        return self.used

    async def send(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Values]) -> None:
        """Nothing is checked."""

    async def receive(self, timeout: float) -> Message:  # noqa: ASYNC109 - as in the sandbox's child
        if self.waits == 0:
            return Message("ready", {}, {})
        self.waits -= 1
        self.used += self.cpu_seconds
        raise ChildTimeout(f"no answer within {timeout} s")

    def fault(self, late: ChildTimeout) -> ChildTimeout:
        """It waited for no processor."""
        return late


async def test_a_busy_machine_does_not_reject_a_program() -> None:
    """On a machine with twenty jobs for two cores, an answer that needs a second of CPU time takes more than ten."""
    computing = Remote(cast("Child", SlowChild(waits=3, cpu_seconds=0.5)), CheckSettings(seconds=10), seed=0)
    stuck = Remote(cast("Child", SlowChild(waits=1, cpu_seconds=0.0)), CheckSettings(seconds=10), seed=0)
    endless = Remote(cast("Child", SlowChild(waits=1000, cpu_seconds=0.5)), CheckSettings(seconds=10), seed=0)

    assert (await computing.ask("begin", {}, {}, expect="ready")).kind == "ready"
    for remote in (stuck, endless):
        with pytest.raises(ChildTimeout):
            await remote.ask("begin", {}, {}, expect="ready")


@pytest.mark.parametrize(("name", "rows"), [("mini", 4), ("tiny", 8), ("explore", 8), ("verify", 4), ("final", 4)])
async def test_a_check_has_a_bounded_size_and_time_for_it_at_every_scale(
    name: str, rows: int, sandbox: Sandbox
) -> None:
    """Checks run on the CPU: at the largest scale a sound baseline was rejected, since its time was over."""
    scale = load_scale(name, {"corpus": "python-source", "tokenizer": "", "precision": "fp32"})
    settings = await stage_settings(scale, 256, sandbox)
    work = FEWEST_LAYERS * rows * scale.context * scale.width / 128

    assert probed_shape(settings) == (rows, scale.context)
    assert work <= 2 * TOKEN_LIMIT
    assert settings.seconds == CheckSettings().seconds * max(1.0, work / TOKEN_LIMIT)


async def test_there_are_two_bad_programs_and_a_near_miss_for_every_probe() -> None:
    """At least forty programs in all."""
    probes = {probe.name for probe in PROBES} | {"screen"}

    assert {path.parent.name for path in BAD} == {path.parent.name for path in NEAR} == probes
    assert all(len(list((ZOO / probe).glob("bad_*.py"))) >= 2 for probe in probes)
    assert len(BAD) + len(NEAR) >= 40


async def test_text_that_is_not_a_program_fails_the_check(sandbox: Sandbox) -> None:
    """Not an error of the service: the result is a failed check."""
    for text in ("", "this is not python", "x = 1", "class A: pass", "def f(:\n"):
        report = await check(text, sandbox, SETTINGS)
        assert not report.passed
        assert report.verdicts


@pytest.mark.parametrize(
    ("milliseconds", "steep"),
    [
        ([1.0, 1.1, 1.5, 2.2, 4.4, 18.2], False),  # of a tiny linear program, on a busy machine
        ([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0], True),
        ([1.0, 4.0, 16.0, 64.0, 256.0, None], True),  # the longest has ended the child
        ([1.0, 2.0, 4.0, 8.0, 16.0, None], False),
    ],
    ids=["noise", "quadratic", "quadratic until it ends", "linear until it ends"],
)
async def test_growth_is_judged_from_times_above_noise(milliseconds: list[float | None], steep: bool) -> None:
    """And from those measured before a child ended, since it answers nothing after that."""
    times, ended = dict(zip([512, 1024, 2048, 4096, 8192, 16384], milliseconds, strict=True)), False

    async def measure(length: int) -> float | None:
        nonlocal ended
        value = None if ended else times[length]
        ended = ended or value is None
        return None if value is None else value / 1000

    growth = await steep_growth(measure, list(times), least=0.02, enough=0.3, at_steep=1.0)

    assert (growth is not None) == steep
