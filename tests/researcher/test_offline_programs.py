"""What the offline mind writes passes every probe of the engineer's check, in this process."""

import ast
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, islice

import pytest

from services.mixers.description import CATALOGUE, Mixer
from services.mixers.moves import LIBRARY, Move
from services.mixers.render import render
from tests.researcher.compositions import composition

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
STARTS, CHOICES = 150, 12
"""Random compositions that moves are applied to, and children of a move to choose from."""

pytestmark = pytest.mark.usefixtures("prepared_child")


async def violations(mixer: Mixer, settings: CheckSettings) -> Sequence[str]:
    """What the probes hold against the mixer's program, as "probe: message"."""
    report = await check(render(mixer, "Candidate"), InlineSandbox(), settings)
    return [f"{verdict.probe}: {verdict.message}" for verdict in report.verdicts if verdict.outcome != "pass"]


@cache
def various_children() -> Mapping[str, Mixer]:
    """A child of each move, chosen so that together they combine as many pairs of options as possible."""
    starts = [*CATALOGUE.values(), *map(composition, range(STARTS))]
    combined, chosen = set[frozenset[object]](), dict[str, Mixer]()
    for move in LIBRARY:
        random.Random(move.name).shuffle(starts)
        few = list(islice(children(move, starts), CHOICES))
        few = few or [next(children(move, map(composition, range(STARTS, 3000))))]
        best = max(few, key=lambda child: len(pairs(child) - combined))
        combined |= pairs(best)
        chosen[move.name] = best
    return chosen


def children(move: Move, starts: Iterable[Mixer]) -> Iterator[Mixer]:
    """Of the starts that the move applies to."""
    return (child for start in starts if (child := move.apply(start)) is not None)


def pairs(mixer: Mixer) -> set[frozenset[object]]:
    """Each two of its options, such as {("memory", "rule", "delta"), ("paths", "window")}."""
    parts = mixer.model_dump(exclude={"paths"})
    options = [(part, name, value) for part, values in parts.items() for name, value in values.items()]
    return {frozenset(pair) for pair in combinations([*options, *(("paths", path.kind) for path in mixer.paths)], 2)}


@pytest.mark.parametrize("name", CATALOGUE)
async def test_a_described_baseline_passes_the_check(name: str) -> None:
    """Children start from these."""
    assert not await violations(CATALOGUE[name], QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("move", [move.name for move in LIBRARY])
async def test_every_move_passes_the_check_in_various_compositions(move: str) -> None:
    """No combination may leak, overflow or depend on the length: it would only ever waste seats."""
    assert not await violations(various_children()[move], THOROUGH)


@pytest.mark.slow
def test_the_checked_compositions_combine_most_pairs_of_options() -> None:
    """That is, of those that twice as many random ones combine."""
    drawn = set().union(*(pairs(composition(seed)) for seed in range(200)))

    assert len(set().union(*map(pairs, various_children().values())) & drawn) > 0.9 * len(drawn)


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


@pytest.mark.parametrize("seed", range(30))
def test_a_program_is_readable(seed: int) -> None:
    """A person reads these: no long lines, nothing imported or defined that is not used."""
    program = render(composition(seed), "Candidate", "Because.")
    tree = ast.parse(program)
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]

    assert max(len(line) for line in program.splitlines()) <= 120
    assert "\n\n\n\n" not in program
    assert all(program.count(name) > 1 for name in functions)
