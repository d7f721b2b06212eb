"""What the offline mind writes passes every probe of the engineer's check, in this process."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import pytest

from services.mixers.description import CATALOGUE, Mixer
from services.mixers.moves import LIBRARY, Move
from services.mixers.render import render
from tests.researcher.offline.compositions import composition

torch = pytest.importorskip("torch")
job = pytest.importorskip(
    "services.engineer.checks.child", reason="the engineer's extra is not installed", exc_type=ImportError
)

from services.engineer.checks.host import check  # noqa: E402
from services.engineer.checks.report import CheckSettings  # noqa: E402
from tests.engineer.training.inline_sandbox import InlineSandbox  # noqa: E402

# Costs are measured on long inputs, and cached decoding is not offered: both only in the slow suite's time.
QUICK = CheckSettings(exempt=("cost", "decoding"), probe_width=32, width=32, layers=1, length=64, batch=3, seed=1)
THOROUGH = CheckSettings(exempt=("decoding",), probe_width=32, width=32, layers=1, length=100, batch=3, seed=1)
WITHOUT_COST = replace(THOROUGH, exempt=("cost", "decoding"))


pytestmark = pytest.mark.usefixtures("prepared_child")


async def violations(mixer: Mixer, settings: CheckSettings) -> Sequence[str]:
    """What the probes hold against the mixer's program, as "probe: message"."""
    report = await check(render(mixer, "Candidate"), InlineSandbox(), settings)
    return [f"{verdict.probe}: {verdict.message}" for verdict in report.verdicts if verdict.outcome != "pass"]


def child_of_a_baseline(move: Move) -> Mixer:
    """The move's first child of a baseline, else of a random composition."""
    starts = chain(CATALOGUE.values(), (composition(seed) for seed in range(3000)))
    return next(child for start in starts if (child := move.apply(start)) is not None)


@pytest.mark.parametrize("name", CATALOGUE)
async def test_a_described_baseline_passes_the_check(name: str) -> None:
    """Children start from these."""
    assert not await violations(CATALOGUE[name], QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("move", LIBRARY, ids=lambda move: move.name)
async def test_every_move_passes_the_check(move: Move) -> None:
    """A move that breaks its children would only ever waste seats."""
    assert not await violations(child_of_a_baseline(move), THOROUGH)


@pytest.mark.parametrize("seed", range(30))
def test_a_random_composition_runs_and_differs_from_the_root(seed: int) -> None:
    """Whatever the search combines must run, forward and backward, and compute something of its own."""
    mixer = composition(seed)
    torch.manual_seed(0)
    both = mixer, CATALOGUE["delta_net"]
    child, root = (job.build(render(each, "Candidate"), False, 2, 32, 2, 0, "single") for each in both)
    inputs = torch.randn(2, 33, 32)
    output = child(inputs)[0]
    output.square().mean().backward()

    assert torch.isfinite(output).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in child.parameters())
    same_parameters = [p.shape for p in child.parameters()] == [p.shape for p in root.parameters()]
    if same_parameters and mixer.structure() != CATALOGUE["delta_net"].structure():
        root.load_state_dict(dict(zip(root.state_dict(), child.state_dict().values(), strict=True)))
        assert not torch.allclose(output, root(inputs)[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(150))
async def test_a_random_composition_passes_the_check(seed: int) -> None:
    """No combination of moves may leak, overflow or depend on the length; one in ten is timed too, which is slow."""
    assert not await violations(composition(seed), THOROUGH if seed % 10 == 0 else WITHOUT_COST)


@pytest.mark.parametrize("seed", range(30))
def test_a_program_is_readable(seed: int) -> None:
    """A person reads these: no long lines, nothing imported or defined that is not used."""
    program = render(composition(seed), "Candidate", "Because.")
    tree = ast.parse(program)
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]

    assert max(len(line) for line in program.splitlines()) <= 120
    assert "\n\n\n\n" not in program
    assert all(program.count(name) > 1 for name in functions)
