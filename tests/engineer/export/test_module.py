"""An exported architecture: a package that needs torch and einops alone, and computes what ours computes."""

import json
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf.json_format import MessageToDict

from services.archive.artifacts import FsspecArtifacts
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.zoo import baseline
from services.engineer.construction import MixerSizes
from services.engineer.export import package_name, requirements_of, write_package
from services.engineer.export.card import Card
from services.engineer.program import execute
from services.engineer.records import keep_weights
from services.engineer.scales import BF16, FP32
from services.engineer.training.child import build_model, model_arrays
from services.engineer.training.model import autocast
from services.engineer.training.sizes import ModelSizes
from services.mixers.description import CATALOGUE, Mixer
from services.mixers.moves import LIBRARY
from services.mixers.render import render
from tests.engineer.training.programs import mixer

SIZES = ModelSizes(vocabulary=256, width=32, blocks=2, heads=2, feed_forward=64, tied=False)
TOKENS = [[10, 65, 66, 67, 0, 255, 30, 31, 32, 33, 34]]
ALONE = ("torch", "einops", "typing_extensions.py", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec",
         "filelock", "numpy", "numpy.libs", "torchgen", "functorch")  # fmt: skip
USE = """
import importlib, json, sys
sys.path[:0] = [{folder!r}, {alone!r}]
import torch
torch.set_num_threads(1)
try:
    import services
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("services can be imported: the package is not on its own")
package = importlib.import_module({name!r})
model = package.load()
tokens = torch.tensor({tokens})
more = package.generate(model, tokens, count=3)
layer = package.mixer(width=16, heads=2)
with torch.autocast("cpu", dtype=torch.bfloat16):
    out = layer(torch.zeros(1, 5, 16))
print(json.dumps({{"logits": package.logits(model, tokens).tolist(), "more": more.tolist(),
                  "out": list((out if isinstance(out, torch.Tensor) else out[0]).shape),
                  "fla": "fla" in sys.modules, "fresh": package.build().training}}))
"""


def composed() -> str:
    """A program as the offline search writes it: three moves away from a baseline."""
    rng = random.Random(3)
    description: Mixer = CATALOGUE["gated_delta_net"]
    for _ in range(3):
        description = rng.choice(LIBRARY).apply(description) or description
    return render(description.canonical(), "ComposedMixer", "Because of a test.")


def record_of(program: str, name: str) -> pb.Candidate:
    """A candidate that was trained, in words only."""
    record = pb.Candidate(id="c000004", run="r1", stage="tiny", kind=pb.KIND_PROPOSAL)
    record.proposal.CopyFrom(pb.Proposal(name=name, program=program, motivation="Because.", parent="c000001"))
    record.training.loss = 1.25
    record.training.seeds.add(seed=1, loss=1.25).measurements.CopyFrom(pb.Measurements(parameters=40_000))
    return record


def on_its_own(folder: Path, name: str, alone: Path) -> dict[str, object]:
    """What the package says in a process that finds torch, einops and their own needs, and nothing else."""
    site = Path(torch.__file__).parent.parent
    alone.mkdir()
    for package in ALONE:
        if (site / package).exists():
            (alone / package).symlink_to(site / package)
    code = USE.format(folder=str(folder), alone=str(alone), name=name, tokens=TOKENS)
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.slow
@pytest.mark.usefixtures("prepared_child")
@pytest.mark.parametrize("which", ["baseline", "composed", "of mixed precision"])
async def test_a_package_computes_what_our_own_loader_computes(which: str, tmp_path: Path) -> None:
    """The same logits from the kept weights, without this project, without fla."""
    program = baseline("delta_net").program if which == "baseline" else composed()
    if mixed := which == "of mixed precision":
        program = mixer("x = x @ torch.eye(x.shape[-1], dtype=torch.bfloat16)")
    model = build_model(program, SIZES, seed=7, device="cpu").eval()
    with torch.no_grad(), autocast("cpu", BF16 if mixed else FP32):
        ours = model.head(model.hidden(torch.tensor(TOKENS))[0]).float().numpy()
    artifacts = FsspecArtifacts((tmp_path / "artifacts").as_uri())
    weights = await artifacts.get(await keep_weights(artifacts, model_arrays(model)))
    card = Card(record_of(program, "NetOfMine"), archive_pb2.RunStatus(run="r1"), [], program, "bytes of UTF-8")
    write_package(tmp_path / "out", card, program, SIZES, weights)
    answer = on_its_own(tmp_path / "out", "net_of_mine", tmp_path / "alone")

    np.testing.assert_allclose(np.array(answer["logits"]), ours, atol=1e-5)
    assert len(answer["more"][0]) == len(TOKENS[0]) + 3  # type: ignore[index]
    assert answer["out"] == [1, 5, 16]
    assert not answer["fla"]


def test_the_card_says_what_was_measured_and_by_which_events(tmp_path: Path) -> None:
    """With the program byte for byte beside it; what was not measured is a dash."""
    program = baseline("delta_net").program
    link = archive_pb2.ChainLink(sequence=7, sha256="ab" * 32, accepted=True)
    link.event.id = "r1.c000004.trained.1"
    card = Card(record_of(program, "Net"), archive_pb2.RunStatus(run="r1"), [link], program, "bytes of UTF-8")
    package = write_package(tmp_path, card, program, SIZES, None)
    text = (tmp_path / "README.md").read_text()

    assert (package / "program.py").read_text() == program
    assert "| held-out loss, nats per token | 1.2500 |" in text
    assert "| mean accuracy of the benchmarks | – |" in text
    assert f"`{'ab' * 32}`" in text
    assert card.program_sha256 in text
    assert "services" not in "".join(file.read_text() for file in package.rglob("*.py") if file.name != "program.py")
    with pytest.raises(FileExistsError):
        write_package(tmp_path, card, program, SIZES, None)


def test_the_card_of_an_imported_record_invents_no_measurement(tmp_path: Path) -> None:
    """Its seed has benchmarks and a size; the other fields are zero."""
    program = baseline("delta_net").program
    record = record_of(program, "Net\x1b[2J")
    record.kind = pb.KIND_IMPORTED
    record.training.ClearField("loss")
    record.training.seeds[0].ClearField("loss")
    card = Card(record, archive_pb2.RunStatus(run="r1"), [], program, "gpt2")
    package = write_package(tmp_path, card, program, SIZES, None)
    text, (seed,) = (tmp_path / "README.md").read_text(), json.loads((package / "card.json").read_text())["seeds"]

    assert "0.0000" not in text
    assert "as it was published" in text
    assert "\x1b" not in text
    assert (seed["parameters"], seed["loss"], seed["seconds"]) == (40_000, None, None)


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("def (", ["--vocabulary", "100"], "the program of candidate c000004 cannot be exported: "),
        ("x = 1", ["--vocabulary", "-5"], "--vocabulary is -5: give a number of tokens from 1."),
    ],
)
def test_an_impossible_export_writes_nothing(tmp_path: Path, program: str, arguments: list[str], message: str) -> None:
    """A package that cannot be imported helps nobody; imported programs may be anything."""
    record = record_of(program, "Net")
    record.stage = "explore"  # of tokens, not bytes
    content = {"candidate": MessageToDict(record), "run": {"run": "r1"}, "chain": []}
    command = [sys.executable, "-m", "services.engineer.export", "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, input=json.dumps(content), capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"asi-arch: {message}")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """It is no fault of the program."""
    (tmp_path / "file").touch()
    record = record_of(baseline("gla").program, "Net")
    content = {"candidate": MessageToDict(record), "run": {"run": "r1"}, "chain": []}
    command = [sys.executable, "-m", "services.engineer.export", "--out", str(tmp_path / "file")]
    done = subprocess.run(command, input=json.dumps(content), capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith(f"asi-arch: --out cannot be written: {tmp_path}/file")


def test_names_and_requirements_come_from_the_program() -> None:
    """An import name from whatever a mind called it."""
    assert package_name("CrossHeadDeltaNetd93c") == "cross_head_delta_netd93c"
    assert package_name("DeltaNet with a gated value skip") == "delta_net_with_a_gated_value_skip"
    assert package_name("2x Net!") == "mixer_2x_net"
    assert requirements_of("import torch\n") == ["torch>=2.4"]
    assert requirements_of("from einops import rearrange\n") == ["torch>=2.4", "einops>=0.8"]


@pytest.mark.usefixtures("prepared_child")
def test_the_loader_of_a_package_finds_and_constructs_a_mixer_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a copy of ours."""
    source = (
        "from torch import nn\n\n\nclass Model(nn.Module):\n    def __init__(self, vocab_size):\n        Mixer(8)\n\n\n"
        "class Part(nn.Linear):\n    pass\n\n\n"
        "class Mixer(nn.Module):\n    def __init__(self, dim, heads=8, num_kv_heads=8):\n        super().__init__()\n"
        "        self.heads, self.part = num_kv_heads, Part(dim, dim)\n\n"
        "    def forward(self, hidden_states):\n        return hidden_states\n"
    )
    card = Card(record_of(source, "Loaded"), archive_pb2.RunStatus(run="r1"), [], source, "bytes of UTF-8")
    write_package(tmp_path, card, source, SIZES, None)
    monkeypatch.syspath_prepend(tmp_path)
    construction = import_module("loaded.construction")
    program, sizes = execute(source), MixerSizes(width=16, heads=2)
    mixer = construction.find_mixer(program, source)

    assert mixer.__name__ == "Mixer"
    assert construction.construct(mixer, sizes).heads == 2
    with pytest.raises(construction.BadConstructor, match="whole language model"):
        construction.construct(program.Model, sizes)
