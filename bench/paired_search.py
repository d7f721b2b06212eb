"""Compare two searches by pairs of short runs with equal seeds, and the paired difference of the best loss.

    python -m bench.paired_search [--in-process] [--sides informed,random] [--pairs 10] [--candidates 24] [--out FILE]
    python -m bench.paired_search --mind openai --policy experiments --sides 3,0 --candidates 4 --pairs 2

Both runs of a pair have the same seed, baselines, scale and budget, one seat, and a temporary data folder. Only one
policy differs: `search` of the offline mind, or that of `--policy`, such as the number of quick experiments that a
language model may request. The result file is written after every run: a repeated command continues, and refuses a file
made with other settings. `--report` prints the results in the file.

A run is `asi-arch run` with all services. With `--in-process` the same proposers, pool and draw of parents work in one
process with a training loop of 60 lines, without checks, sandbox and early stopping: a tenth of the processor time.
"""

import argparse
import json
import math
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.domain import pool, zoo
from services.domain.statistics import paired_test, power
from services.domain.structure import fingerprint
from services.llm.port import OFFLINE
from services.researcher.offline_search import Seed, propose_by_surrogate, propose_offline
from services.table import Table

Train = Callable[[str], float | None]
"""From a program to its held-out loss; None if it failed."""
RUN_LIMIT = 7200
"""Time limit of a run in seconds."""
SMALL = (
    "tokens=25088", "blocks=1", "width=32", "feed_forward=64", "heldout_blocks=64", "evaluations=1",
    "check_truncations=16", "tasks=", "averaged=", "precision=fp32",
)  # fmt: skip
"""Of scale `mini`: 49 steps of one narrow block, no benchmarks."""


@dataclass(frozen=True)
class Run:
    """One run: the held-out loss of each proposal in order; None for rejected or stopped ones.

    `tokens` are those of its language model, and `passed` the number of seats whose first draft was new and sound; None
    without a language model.
    """

    side: str
    seed: int
    losses: tuple[float | None, ...]
    seconds: float
    tokens: int | None = None
    passed: int | None = None

    def best(self, trained: int) -> float | None:
        """Lowest loss of the first `count` proposals."""
        return min((loss for loss in self.losses[:trained] if loss is not None), default=None)


def measure(
    side: str, seed: int, candidates: int, settings: Sequence[str], mind: str = "offline", policy: str = "search"
) -> Run:
    """Raises CalledProcessError if the run fails; its messages are shown."""
    with tempfile.TemporaryDirectory() as folder:

        def run_json(*command: str) -> Any:
            finished = subprocess.run(
                [sys.executable, "-m", "services.console", *command, "--json"],
                env={**os.environ, "ASI_DATA_DIR": folder},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=RUN_LIMIT,
            )
            return json.loads(finished.stdout)

        started = time.perf_counter()
        rows = run_json(
            "run", "--mind", mind, "--seats", "1", "--seed", str(seed), "--candidates", str(candidates),
            "--policy", f"{policy}={side}", *settings,
        )  # fmt: skip
        seconds = round(time.perf_counter() - started, 1)
        proposals = sorted((row for row in rows if row["kind"] == "proposal"), key=lambda row: row["id"])
        losses = tuple(row["loss"] for row in proposals)
        if mind == OFFLINE:
            return Run(side, seed, losses, seconds)
        cost = run_json("cost")
        passed = sum(row["passed_at_first"] for row in cost["drafts"].values())
        return Run(side, seed, losses, seconds, cost["tokens"], passed)


def measure_in_process(side: str, seed: int, candidates: int, baselines: Sequence[str], train: Train) -> Run:
    """One seat: draw a parent from a pool of the size of small runs, propose, train, enter the pool."""
    started = time.perf_counter()
    policy = pool.PoolPolicy(size=12, parents=4, references=3, cold_start=5, batch=3)
    state, measured, proposed = pool.PoolState(), dict[str, Seed](), set[str]()
    losses: list[float | None] = []
    prior = Table.load().prior if side == "informed" else None

    def is_repeat(program: str) -> bool:
        return fingerprint(program).digest in proposed

    def enter(candidate: Seed) -> None:
        nonlocal state
        measured[candidate.candidate] = candidate
        if candidate.fitness is not None:
            entry = pool.Entry(candidate.candidate, candidate.fitness, len(measured))
            state = pool.entered(state, entry, policy)[0]

    for name in baselines:
        loss = train(zoo.baseline(name).program)
        fitness = None if loss is None else -loss
        enter(Seed(name, name, zoo.baseline(name).program, fitness, family=name))
    for number in range(1, candidates + 1):
        rng = random.Random(f"{seed}:{number}")
        draw = pool.draw(pool.seeds(state), policy, rng)
        parent, references = measured[draw.parent.id], [measured[entry.id] for entry in draw.references]
        if side == "random":
            proposal = propose_offline(parent, references, (), (), rng, is_repeat)
        else:
            seeds = list(measured.values())
            proposal = propose_by_surrogate(parent, references, seeds, (), rng, is_repeat, prior=prior)
        loss = train(proposal.program)
        losses.append(loss)
        proposed.add(fingerprint(proposal.program).digest)
        fitness = None if loss is None else -loss
        enter(Seed(f"c{number}", proposal.name, proposal.program, fitness, json.dumps(proposal.description)))
    return Run(side, seed, tuple(losses), round(time.perf_counter() - started, 1))


def trainer(seed: int, scale_name: str, overrides: Sequence[str]) -> Train:
    """A minimal loop over the scale's model and text; its programs come from our own moves and are trusted."""
    import torch

    from bench.bare_loop import loss_after_training, tokens_of
    from services.engineer.construction import MixerSizes
    from services.engineer.data import heldout_blocks, open_corpus
    from services.engineer.program import load_mixer, prepare_child
    from services.engineer.scales import load_scale

    scale = load_scale(scale_name, dict(override.split("=", 1) for override in overrides))
    prepare_child(1, "cpu")
    corpus = open_corpus(scale, Path("build"), "table")
    tokens = tokens_of(corpus, scale, seed)
    heldout = torch.from_numpy(heldout_blocks(corpus.heldout, scale.heldout_blocks, scale.context))

    def train(program: str) -> float | None:
        def mixer(layer: int) -> torch.nn.Module:
            return load_mixer(program, MixerSizes(width=scale.width, heads=scale.heads, layer=layer))

        try:
            loss = loss_after_training(mixer, tokens, heldout, scale, corpus.tokens.vocabulary, seed)
        except (RuntimeError, ValueError) as error:
            sys.stderr.write(f"not trained: {error}\n")
            return None
        return loss if math.isfinite(loss) else None

    return train


def report(runs: Sequence[Run], sides: tuple[str, str], candidates: int) -> str:
    """Mean difference of the best loss, second side minus first: positive if the first is better."""
    first, second = sides
    by_pair: dict[int, dict[str, Run]] = {}
    for run in runs:
        by_pair.setdefault(run.seed, {})[run.side] = run
    lines = [f"best held-out loss of {second} minus that of {first}, nats per byte; positive: {first} is better"]
    for trained in sorted({max(1, candidates // 2), candidates}):
        gains = []
        for pair in by_pair.values():
            ours, theirs = (pair[side].best(trained) if side in pair else None for side in sides)
            if ours is not None and theirs is not None:
                gains.append(theirs - ours)
        if len(gains) < 2:
            lines.append(f"after {trained} proposals: {len(gains)} complete pairs, too few for an interval")
            continue
        test = paired_test(gains)
        interval = test.interval()
        visible = next((effect / 1000 for effect in range(1, 1000) if _power(effect / 1000, test) >= 0.8), None)
        lines.append(
            f"after {trained} proposals: {test.effect:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] over "
            f"{test.count} pairs, {sum(gain > 0 for gain in gains)} of them positive, one-sided p {test.p:.3f}"
            + (f"; a true difference of {visible:.3f} would be detected with a probability of 80 %" if visible else "")
        )
    return "\n".join((*lines, *(text for side in sides if (text := _side_text(side, runs)))))


def _side_text(side: str, runs: Sequence[Run]) -> str:
    """The tokens of one side's language model, and the results of its first drafts; empty without one."""
    own = [run for run in runs if run.side == side and run.tokens is not None]
    losses = [loss for run in own for loss in run.losses if loss is not None]
    if not own or not losses:
        return ""
    return (
        f"{side}: mean loss {sum(losses) / len(losses):.4f} over {len(losses)} proposals; first drafts new and sound "
        f"{sum(run.passed or 0 for run in own)} of {sum(len(run.losses) for run in own)}; "
        f"{sum(run.tokens or 0 for run in own) / len(own):,.0f} tokens per run"
    )


def _power(effect: float, test: Any) -> float:
    deviation = test.standard_error * test.count**0.5
    return power(effect, deviation, test.count) if deviation > 0 else 1.0


def _read(file: Path, settings: Mapping[str, object]) -> list[Run]:
    """The runs of the file so far. Raises SystemExit if it was made with other settings."""
    if not file.exists():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["settings"] != settings:
        raise SystemExit(f"{file} was made with {content['settings']}, not {settings}: give another --out")
    return [Run(**{**run, "losses": tuple(run["losses"])}) for run in content["runs"]]


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="informed,random", help="two values of the policy")
    parser.add_argument("--policy", default="search", help="the policy in which the sides differ")
    parser.add_argument("--mind", default=OFFLINE, help="as of `asi-arch run`")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="the seed of the first pair")
    parser.add_argument("--candidates", type=int, default=24, help="proposals per run")
    parser.add_argument("--baselines", default="delta_net,gated_delta_net", help="as of `asi-arch run`")
    parser.add_argument("--scale", default="mini", help="as of `asi-arch run`")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="override of the scale, after SMALL's"
    )
    parser.add_argument("--out", type=Path, default=Path("build/paired_search.json"))
    parser.add_argument("--in-process", action="store_true", help="without services; see above")
    parser.add_argument("--report", action="store_true", help="print the results in the file, train nothing")
    parser.add_argument(
        "--flags", default="", help="further flags of `asi-arch run`, such as --flags='--without judge'"
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Run the missing runs, pair by pair; `words` replace those of the command line."""
    arguments = _arguments(words)
    first, second = arguments.sides.split(",")
    overrides = (*SMALL, *arguments.overrides)
    passed_on = ["--scale", arguments.scale, "--baselines", arguments.baselines]
    passed_on += [word for override in overrides for word in ("--set", override)]
    passed_on += shlex.split(arguments.flags)
    settings = {
        "candidates": arguments.candidates,
        "options": shlex.join(passed_on),
        "in_process": arguments.in_process,
        "mind": arguments.mind,
        "policy": arguments.policy,
    }
    if arguments.in_process and (arguments.mind, arguments.policy) != (OFFLINE, "search"):
        raise SystemExit("--in-process compares searches of the offline mind only; leave it out")
    if arguments.report:
        content = json.loads(arguments.out.read_text(encoding="utf-8"))
        settings = content["settings"]
    runs = _read(arguments.out, settings)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.first, arguments.first + arguments.pairs) if not arguments.report else ():
        for side in (first, second):
            if not any((run.side, run.seed) == (side, seed) for run in runs):
                if arguments.in_process:
                    train = trainer(seed, arguments.scale, overrides)
                    names = arguments.baselines.split(",")
                    runs.append(measure_in_process(side, seed, arguments.candidates, names, train))
                else:
                    run = measure(side, seed, arguments.candidates, passed_on, arguments.mind, arguments.policy)
                    runs.append(run)
                written = json.dumps({"settings": settings, "runs": [asdict(run) for run in runs]}, indent=1)
                unfinished = arguments.out.with_suffix(".part")
                unfinished.write_text(written + "\n", encoding="utf-8")
                unfinished.replace(arguments.out)
                sys.stderr.write(f"{side} seed {seed}: best {runs[-1].best(arguments.candidates)}\n")
    sys.stdout.write(report(runs, (first, second), int(settings["candidates"])) + "\n")


if __name__ == "__main__":
    main()
