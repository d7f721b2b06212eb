"""Trains one program on several GPUs of one or more machines, outside the sandbox.

    torchrun --nproc-per-node 8 -m services.engineer.training.distributed --program FILE --scale verify --out FOLDER

For trusted programs only, as they are not confined. Each process holds the whole model and takes its share of every
batch, so the data order is that of a single process. DistributedDataParallel is used instead of FSDP2, which rejects
scalar parameters and parameters without a gradient, since 412M parameters fit on one GPU. Writes
FOLDER/weights.safetensors, and one JSON line of metrics per chunk to stdout.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from safetensors.numpy import save_file
from torch.nn.parallel import DistributedDataParallel

from services.engineer.data import Corpus, batches, open_corpus
from services.engineer.program import prepare_child
from services.engineer.scales import AUTO, Scale, load_scale, overrides_of
from services.engineer.training.child import build_model, model_arrays
from services.engineer.training.sizes import Plan, model_sizes
from services.engineer.training.trainer import Trainer

TOKENISING = timedelta(days=2)
"""Limit on the time to read and tokenise a corpus: NCCL would give up after ten minutes, gloo after thirty."""


def main(arguments: Sequence[str]) -> int:
    """Join the process group, train, and write the weights."""
    options = _parser().parse_args(arguments)
    scale = load_scale(options.scale, overrides_of(options.set))
    if scale.precision == AUTO:
        raise ValueError("The precision must be the same in all processes: give it, as in --set precision=fp32.")
    if scale.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if scale.device == "cuda" else "gloo")
    try:
        patient = dist.new_group(backend="gloo", timeout=TOKENISING)
        if dist.get_rank() == 0:
            open_corpus(scale, options.cache)  # tokenises it for all processes
        dist.barrier(patient)
        corpus = open_corpus(scale, options.cache)
        trainer = run(options.program.read_text(encoding="utf-8"), options.seed, scale, corpus)
        if dist.get_rank() == 0:
            options.out.mkdir(parents=True, exist_ok=True)
            save_file(model_arrays(trainer.model), options.out / "weights.safetensors")
    finally:
        dist.destroy_process_group()
    return 0


def run(program: str, seed: int, scale: Scale, corpus: Corpus) -> Trainer:
    """Train on this process's share of each batch. Raises ValueError if the batch cannot be divided evenly."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if scale.batch % world:
        raise ValueError(f"The batch {scale.batch} must be a multiple of the {world} processes; change batch.")
    trainer = _trainer(program, seed, scale, corpus.tokens.vocabulary)
    start = perf_counter()
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=seed, first=0, count=scale.steps)
    for step, rows in enumerate(order):
        report = trainer.step(step, torch.from_numpy(rows[rank::world]))
        if (step + 1) % scale.log_every == 0 or step + 1 == scale.steps:
            _print_step(scale, step + 1, report.loss, perf_counter() - start, trainer.device)
    return trainer


def _trainer(program: str, seed: int, scale: Scale, vocabulary: int) -> Trainer:
    prepare_child(scale.threads, scale.device)
    model = build_model(program, model_sizes(scale, vocabulary), seed, scale.device)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    share = max(1, scale.batch // dist.get_world_size())
    plan = replace(Plan.of(scale), micro_batch=min(scale.micro_batch, share))
    return Trainer(model, plan, scale.device, parallel)


def _print_step(scale: Scale, step: int, loss: float, seconds: float, device: str) -> None:
    mean = torch.tensor(loss, device=device)
    dist.all_reduce(mean)
    if dist.get_rank() == 0:
        line = {
            "step": step,
            "train_loss": float(mean) / dist.get_world_size(),
            "tokens_per_second": step * scale.tokens_per_step / seconds,
        }
        print(json.dumps(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train one trusted program on all processes that torchrun started.")
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--scale", default="verify")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override one field")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "asi-arch")
    parser.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
