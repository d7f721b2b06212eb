"""Training tokens/s of every baseline against the bare loop, and of two workers at a time.

    python -m bench.training [--scale tiny] [--set steps=80] [--repeats 3] [--programs delta_net gated_delta_net]

They are measured in turn, in separate processes, and the medians of the ratios are printed. On a CPU the unit is tokens
per second of processor time, including that of the host; two workers are measured by elapsed time. On a CPU the bare
loop runs twice: with our operators, which shows the overhead, and with fla's own PyTorch functions for the same
operators. With a scale on "cuda" the bare loop runs fla's own layer of the same name, if there is one.
"""

import argparse
import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.machinery import PathFinder
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from time import perf_counter, process_time
from types import ModuleType

import torch

from bench.bare_loop import tokens_of, tokens_per_second
from bench.gpu import unscored
from services.domain import zoo
from services.engineer.construction import MixerSizes
from services.engineer.data import open_corpus
from services.engineer.program import load_mixer, prepare_child
from services.engineer.scales import Scale, load_scale
from services.engineer.speed import measure_precision, with_precision
from services.engineer.training.host import JOB
from services.engineer.training.measurements import device_name
from services.engineer.training.protocol import limits_of
from services.engineer.training.session import Job, Session, Supervision
from services.sandbox import Sandbox

CACHE = Path.home() / ".cache" / "asi-arch"
FLA_LAYERS = {"delta_net": "DeltaNet", "gated_delta_net": "GatedDeltaNet"}


def fla_functions() -> dict[str, Callable[..., object]]:
    """fla's own PyTorch functions under the names and with the arguments of the operators that programs import."""
    delta, gated, gla = (_fla_module(f"ops/{name}/naive.py") for name in ("delta_rule", "gated_delta_rule", "gla"))

    def chunk_delta_rule(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, beta: torch.Tensor, **_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, state = delta.delta_rule_chunkwise(*(tensor.transpose(1, 2) for tensor in (q, k, v, beta)))
        return output.transpose(1, 2), state

    def chunk_gated_delta_rule(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, **_: object
    ) -> object:
        output, state = gated.naive_chunk_gated_delta_rule(q, k, v, g, beta)
        return output.to(v.dtype), state

    return {
        "chunk_delta_rule": chunk_delta_rule,
        "chunk_gated_delta_rule": chunk_gated_delta_rule,
        "chunk_gla": gla.naive_recurrent_gla,
    }


def bare(program: str, name: str, scale: Scale, *, of_fla: bool = False) -> float:
    """The bare loop's tokens/s, in this process; `of_fla`: with fla's PyTorch functions instead of our operators."""
    prepare_child(scale.threads, scale.device)
    corpus = open_corpus(scale, CACHE)
    return tokens_per_second(
        lambda layer: _mixer(program, name, scale, layer, fla_functions() if of_fla else {}),
        tokens_of(corpus, scale, 0),
        scale,
        corpus.tokens.vocabulary,
    )


async def ours(program: str, scale: Scale, sandbox: Sandbox) -> float:
    """Tokens/s of a training in the sandbox: by processor time of child and host, or elapsed time on a GPU."""
    job = Job(program, 0, scale, open_corpus(scale, CACHE))
    async with sandbox.child(JOB, limits_of(scale)) as child:
        session = Session(job, Supervision(), child, unscored)
        await session.begin()
        started = process_time()
        await session.run()
        host = (process_time() - started) / scale.steps
    later = session.history[len(session.history) // 4 :]
    busy = [metrics.busy_per_step * scale.threads + host for metrics in later if metrics.busy_per_step is not None]
    return scale.tokens_per_step / fmean(busy or [metrics.seconds_per_step for metrics in later])


async def compare(name: str, scale: Scale, repeats: int, sandbox: Sandbox) -> None:
    """One line: tokens/s in the sandbox, in both bare loops with the median ratios, and of two workers together."""
    program = zoo.baseline(name).program
    comparable = scale.device == "cpu" and any(function in program for function in fla_functions())
    rows: list[tuple[float, float, float]] = []
    for _ in range(repeats):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            alone = pool.submit(bare, program, name, scale).result()
            of_fla = pool.submit(bare, program, name, scale, of_fla=True).result() if comparable else float("nan")
        rows.append((await ours(program, scale, sandbox), alone, of_fla))
    started = perf_counter()
    await asyncio.gather(ours(program, scale, sandbox), ours(program, scale, sandbox))
    both = 2 * scale.steps * scale.tokens_per_step / (perf_counter() - started)
    own, alone, of_fla = (median(column) for column in zip(*rows, strict=True))
    ratios = [median(row[0] / row[column] for row in rows) for column in (1, 2)]
    cells = f"{own:10,.0f} {alone:10,.0f} {ratios[0]:7.3f}"
    cells += f" {of_fla:10,.0f} {ratios[1]:7.3f}" if comparable else f" {'-':>10} {'-':>7}"
    print(f"{name:24} {cells} {both:12,.0f}", flush=True)


def _fla_module(path: str) -> ModuleType:
    """A module of fla, loaded from its path, since the package needs Triton."""
    package = PathFinder.find_spec("fla")
    assert package is not None
    assert package.submodule_search_locations is not None
    specification = importlib.util.spec_from_file_location(
        Path(path).parent.name, Path(package.submodule_search_locations[0]) / path
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _mixer(
    program: str, name: str, scale: Scale, layer: int, replacements: dict[str, Callable[..., object]]
) -> torch.nn.Module:
    if scale.device == "cuda" and name in FLA_LAYERS:
        import fla.layers

        kind = getattr(fla.layers, FLA_LAYERS[name])
        mixer: torch.nn.Module = kind(hidden_size=scale.width, num_heads=scale.heads, layer_idx=layer)
        return mixer
    mixer = load_mixer(program, MixerSizes(width=scale.width, heads=scale.heads, layer=layer))
    names = type(mixer).forward.__globals__
    names.update({name: function for name, function in replacements.items() if name in names})
    return mixer


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
    names = options.programs or [baseline.name for baseline in zoo.baselines()]
    async with Sandbox() as sandbox:
        scale = with_precision(scale, await measure_precision(sandbox, scale))
        where = f"{device_name(scale.device)}, {scale.precision}, {scale.threads} thread(s)"
        print(f"{scale.name} on {where}, {scale.steps} steps")
        print(
            f"{'tokens/s':24} {'ours':>10} {'bare':>10} {'ratio':>7} {'with fla':>10} {'ratio':>7} {'two of ours':>12}"
        )
        for name in names:
            await compare(name, scale, options.repeats, sandbox)


if __name__ == "__main__":
    asyncio.run(main())
