"""`python -m services.engineer.export --out DIR < RECORD`: export an architecture as a package, for the console.

RECORD is JSON: the candidate, its run's status and its chain of events from the archive. Exit status: 0, or 2 for bad
input.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from google.protobuf.json_format import ParseDict

from services.archive.artifacts import ArtifactDamaged, FsspecArtifacts
from services.archive.scoring import program_of
from services.chassis.errors import SettingsError, sentence
from services.chassis.settings import load
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.syntax import parse
from services.engineer.data.corpus import ByteTokens
from services.engineer.export import write_package
from services.engineer.export.card import Card
from services.engineer.scales import Scale, ScaleError, load_scale
from services.engineer.settings import EngineerSettings
from services.engineer.training.sizes import model_sizes

BYTES = "bytes of UTF-8"


def main(arguments: argparse.Namespace, settings: EngineerSettings) -> Path:
    """Write the package and return its folder. Raises SettingsError for a record without a program."""
    content = json.load(sys.stdin)
    record = ParseDict(content["candidate"], pb.Candidate())
    status = ParseDict(content["run"], archive_pb2.RunStatus())
    links = [ParseDict(link, archive_pb2.ChainLink()) for link in content["chain"]]
    source = program_of(record)
    if not source:
        raise SettingsError(f"candidate {record.id} has no program yet: there is nothing to export")
    try:
        parse(source)
    except ValueError as error:
        raise SettingsError(f"the program of candidate {record.id} cannot be exported: {error}") from None
    scale = load_scale(record.stage or "tiny", dict(status.settings.scale_overrides))
    weights = asyncio.run(_weights(record, settings))
    sizes = model_sizes(scale, _vocabulary(scale, weights, arguments.vocabulary))
    tokenizer = BYTES if scale.of_bytes else scale.tokenizer
    return write_package(arguments.out, Card(record, status, links, source, tokenizer), source, sizes, weights)


async def _weights(record: pb.Candidate, settings: EngineerSettings) -> bytes | None:
    """The weights of the first seed that has some; None if there are none or they cannot be read."""
    for seed in record.training.seeds:
        if seed.HasField("checkpoint"):
            try:
                return await FsspecArtifacts(settings.artifacts).get(seed.checkpoint)
            except (FileNotFoundError, ArtifactDamaged) as error:
                sys.stderr.write(f"asi-arch: without weights: {sentence(error)}\n")
    return None


def _vocabulary(scale: Scale, weights: bytes | None, vocabulary: int | None) -> int:
    if scale.of_bytes:
        return ByteTokens.vocabulary
    if weights is not None:
        from safetensors.numpy import load as arrays

        return int(arrays(weights)["embedding.weight"].shape[0])
    if vocabulary is None:
        raise SettingsError(
            f"the weights were not kept: give the size of {scale.tokenizer}'s vocabulary, --vocabulary N."
        )
    if vocabulary < 1:
        raise SettingsError(f"--vocabulary is {vocabulary}: give a number of tokens from 1.")
    return vocabulary


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="asi-arch export", description="One architecture as a Python package.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, help="size of the tokenizer's vocabulary, if weights were not kept")
    try:
        sys.stdout.write(f"{main(parser.parse_args(), load(EngineerSettings, 'engineer'))}\n")
    except (SettingsError, ScaleError) as error:
        sys.stderr.write(f"asi-arch: {error}\n")
        sys.exit(2)
    except FileExistsError as error:
        sys.stderr.write(f"asi-arch: {error.filename} exists already: choose another --out\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"asi-arch: --out cannot be written: {sentence(error)}\n")
        sys.exit(2)
