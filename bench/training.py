"""Training tokens/s of every baseline against the bare loop, and of two workers at a time.

    python -m bench.training [--scale tiny] [--set steps=80] [--repeats 3] [--programs delta_net gated_delta_net]

The two are measured in turn, in processes that do nothing else, and the median of the ratios is printed. On a CPU they
are tokens per second of processor time, the host's part of ours included; two workers are measured by the clock. With a
scale on "cuda" the bare loop runs fla's own layer of the same name where there is one.
"""

import argparse
import asyncio
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from time import perf_counter, process_time

import numpy as np
import torch

from bench.bare_loop import tokens_per_second
from services.domain import zoo
from services.engineer.data import batches, open_corpus
from services.engineer.precision import measure_precision, with_precision
from services.engineer.program import MixerSizes, load_mixer, prepare_child
from services.engineer.scales import Scale, load_scale
from services.engineer.training.host import JOB
from services.engineer.training.measurements import device_name
from services.engineer.training.protocol import limits_of
from services.engineer.training.session import Job, Session, Supervision, Weights
from services.sandbox import Sandbox

CACHE = Path.home() / ".cache" / "asi-arch"
FLA_LAYERS = {"delta_net": "DeltaNet", "gated_delta_net": "GatedDeltaNet"}


def bare(program: str, name: str, scale: Scale) -> float:
    """The bare loop's tokens/s, in this process."""
    prepare_child(scale.threads, scale.device)
    corpus = open_corpus(scale, CACHE)
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=0, first=0, count=scale.steps)
    return tokens_per_second(
        lambda layer: _mixer(program, name, scale, layer),
        torch.from_numpy(np.stack(list(order))),
        width=scale.width,
        inner=scale.feed_forward,
        blocks=scale.blocks,
        vocabulary=corpus.tokens.vocabulary,
        micro_batch=scale.micro_batch,
        device=scale.device,
        precision=scale.precision,
    )


async def ours(program: str, scale: Scale, sandbox: Sandbox) -> float:
    """Our tokens/s, the whole way through the sandbox: by processor time of child and host, or the clock on a GPU."""
    job = Job(program, 0, scale, open_corpus(scale, CACHE))
    async with sandbox.child(JOB, limits_of(scale)) as child:
        session = Session(job, Supervision(), child, _unscored)
        await session.begin()
        began = process_time()
        await session.run()
        host = (process_time() - began) / scale.steps
    later = session.history[len(session.history) // 4 :]
    busy = [metrics.busy_per_step * scale.threads + host for metrics in later if metrics.busy_per_step is not None]
    return scale.tokens_per_step / fmean(busy or [metrics.seconds_per_step for metrics in later])


async def compare(name: str, scale: Scale, repeats: int, sandbox: Sandbox) -> None:
    """One line: our tokens/s, the bare loop's, the median of their ratios, and two workers together."""
    program = zoo.baseline(name).program
    pairs = []
    for _ in range(repeats):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            alone = await asyncio.get_running_loop().run_in_executor(pool, bare, program, name, scale)
        pairs.append((await ours(program, scale, sandbox), alone))
    began = perf_counter()
    await asyncio.gather(ours(program, scale, sandbox), ours(program, scale, sandbox))
    both = 2 * scale.steps * scale.tokens_per_step / (perf_counter() - began)
    ratio = median(own / alone for own, alone in pairs)
    own, alone = (median(column) for column in zip(*pairs, strict=True))
    print(f"{name:24} {own:12,.0f} {alone:12,.0f} {ratio:7.3f} {both:14,.0f}")


def _mixer(program: str, name: str, scale: Scale, layer: int) -> torch.nn.Module:
    if scale.device == "cuda" and name in FLA_LAYERS:
        import fla.layers

        kind = getattr(fla.layers, FLA_LAYERS[name])
        mixer: torch.nn.Module = kind(hidden_size=scale.width, num_heads=scale.heads, layer_idx=layer)
        return mixer
    return load_mixer(program, MixerSizes(width=scale.width, heads=scale.heads, layer=layer))


async def _unscored(weights: Weights, step: int) -> float:  # noqa: ARG001
    raise AssertionError("the benchmark's scale has no evaluations")


async def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every program of the zoo, or those that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--set", action="append", default=["steps=80", "log_every=5"], metavar="FIELD=VALUE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--programs", nargs="*")
    options = parser.parse_args(arguments)
    overrides = dict(pair.split("=", 1) for pair in options.set) | {"evaluations": "0"}
    scale = load_scale(options.scale, overrides)
    names = options.programs or [one.name for one in zoo.baselines()]
    async with Sandbox() as sandbox:
        scale = with_precision(scale, await measure_precision(sandbox, scale))
        where = f"{device_name(scale.device)}, {scale.precision}, {scale.threads} thread(s)"
        print(f"{scale.name} on {where}, {scale.steps} steps")
        print(f"{'program':24} {'ours tok/s':>12} {'bare tok/s':>12} {'ratio':>7} {'two workers':>14}")
        for name in names:
            await compare(name, scale, options.repeats, sandbox)


if __name__ == "__main__":
    asyncio.run(main())
