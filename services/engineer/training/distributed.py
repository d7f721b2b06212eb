"""Training one program on 1 to N GPUs of one or more machines, outside the sandbox.

    torchrun --nproc-per-node 8 -m services.engineer.training.distributed --program FILE --scale verify --out FOLDER

For programs that have been read and checked: nothing confines them here. Each process holds the whole model and takes
its share of every batch, so that the data order is that of a single process. DistributedDataParallel, not sharding:
generated programs hold scalar parameters, which FSDP2 refuses, and parameters without a gradient, and 412M parameters
fit any GPU that is worth using. Writes FOLDER/weights.safetensors and one JSON line of metrics per chunk to stdout.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from safetensors.numpy import save_file
from torch.nn.parallel import DistributedDataParallel

from services.engineer.data import Corpus, batches, open_corpus
from services.engineer.program import prepare_child
from services.engineer.scales import Scale, load_scale
from services.engineer.training.child import build_model, model_arrays
from services.engineer.training.model import AUTO
from services.engineer.training.sizes import ModelSizes
from services.engineer.training.trainer import Plan, Trainer


def main(arguments: Sequence[str]) -> int:
    """Read the command line, join the other processes, train, write the weights."""
    options = _parser().parse_args(arguments)
    scale = load_scale(options.scale, dict(pair.split("=", 1) for pair in options.set))
    if scale.precision == AUTO:
        raise ValueError("Several processes train alike: name the precision, as in --set precision=bf16-autocast.")
    dist.init_process_group("nccl" if scale.device == "cuda" else "gloo")
    try:
        corpus = _corpus(scale, options.cache)
        trainer = run(options.program.read_text(encoding="utf-8"), options.seed, scale, corpus)
        if dist.get_rank() == 0:
            options.out.mkdir(parents=True, exist_ok=True)
            save_file(model_arrays(trainer.model), options.out / "weights.safetensors")
    finally:
        dist.destroy_process_group()
    return 0


def run(program: str, seed: int, scale: Scale, corpus: Corpus) -> Trainer:
    """All steps on this process's share of each batch. Raises ValueError where the batch cannot be shared evenly."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if scale.batch % world:
        raise ValueError(f"The batch {scale.batch} cannot be shared by {world} processes; change batch.")
    trainer = _trainer(program, seed, scale, corpus.tokens.vocabulary)
    began = perf_counter()
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=seed, first=0, count=scale.steps)
    for step, rows in enumerate(order):
        report = trainer.step(step, torch.from_numpy(rows[rank::world]))
        if (step + 1) % scale.log_every == 0 or step + 1 == scale.steps:
            _print_step(scale, step + 1, report.loss, perf_counter() - began, trainer.device)
    return trainer


def _trainer(program: str, seed: int, scale: Scale, vocabulary: int) -> Trainer:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if scale.device == "cuda":
        torch.cuda.set_device(local)
    prepare_child(scale.threads, scale.device)
    model = build_model(program, ModelSizes.of(scale, vocabulary), seed, scale.device)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    share = max(1, scale.batch // dist.get_world_size())
    plan = replace(Plan.of(scale), micro_batch=min(scale.micro_batch, share))
    return Trainer(model, plan, scale.device, parallel)


def _print_step(scale: Scale, step: int, loss: float, seconds: float, device: str) -> None:
    mean = torch.tensor(loss, device=device)
    dist.all_reduce(mean)
    if dist.get_rank() == 0:
        line: Mapping[str, float] = {
            "step": step,
            "train_loss": float(mean) / dist.get_world_size(),
            "tokens_per_second": step * scale.tokens_per_step / seconds,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _corpus(scale: Scale, cache: Path) -> Corpus:
    """The first process tokenises; the others wait, then map what it wrote."""
    if dist.get_rank() == 0:
        open_corpus(scale, cache)
    dist.barrier()
    return open_corpus(scale, cache)


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
