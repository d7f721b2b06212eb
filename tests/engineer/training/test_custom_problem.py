"""Custom text, tasks, scales, hybrids and plug-ins, as in the repository's examples."""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import transformers  # noqa: F401 - datasets, in the harness, would use its stand-in for programs

from services.chassis.errors import SettingsError
from services.domain.ladder import corpus_overrides, parse_scale_file
from services.engineer.data import CorpusError, open_corpus
from services.engineer.evaluation.tasks import EvaluationUnavailable, require_tasks, task_manager
from services.engineer.scales import ScaleError, load_scale
from services.engineer.training.host import train
from services.local.plan import RunOptions
from services.mixers.moves import Move
from services.mixers.plugins import MOVES, load_all, plugin_names
from tests.engineer.training.inline_sandbox import InlineSandbox
from tests.engineer.training.programs import CONVOLUTION, SMALL, mixer

EXAMPLES = Path(__file__).parents[3] / "examples"
PLUGIN = EXAMPLES / "plugin"
PARITY = (EXAMPLES / "tasks" / "parity.yaml").read_text()
QUICK = {**SMALL, "steps": "2", "log_every": "2", "evaluations": "0", "check_truncations": "4"}


def text_in(folder: Path) -> Path:
    """Sixty small documents and one long one."""
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"document {number}: " + "some words of its own " * 20)
    (folder / "long.md").write_text("\n\n".join(f"paragraph {number} " * 40 for number in range(200)))
    return folder


def installed(folder: Path) -> Path:
    """What pip makes of the example's pyproject.toml: a folder that Python finds its entry points in."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    about = folder / "laboratory_plugin-1.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    (folder / "laboratory_plugin").symlink_to(PLUGIN / "laboratory_plugin")
    return folder


def test_a_folder_of_text_is_split_by_its_pieces_and_read_once(tmp_path: Path) -> None:
    """Nothing held out is trained on, and a second opening gives the same parts from the cache."""
    (tmp_path / "text").mkdir()
    path = text_in(tmp_path / "text")
    scale = load_scale("tiny", {**SMALL, **corpus_overrides(str(path)), "heldout_blocks": "4"})
    corpus, again = (open_corpus(scale, tmp_path / "cache", "secret") for _ in range(2))
    text = corpus.train.tobytes() + corpus.heldout.tobytes() + corpus.verification.tobytes()

    assert corpus.tokens.vocabulary == 256
    assert corpus.heldout_bytes_per_token == pytest.approx(1.0, abs=0.01)
    assert corpus.heldout[:300].tobytes() not in corpus.train.tobytes()
    assert b"paragraph 199" in text
    assert b"document 59" in text
    assert again.fingerprint == corpus.fingerprint
    assert open_corpus(scale, tmp_path / "cache", "another").fingerprint != corpus.fingerprint


def test_text_in_a_single_line_and_broken_unicode_in_json_are_read(tmp_path: Path) -> None:
    """The line was one piece, of which nothing was held out, and half of a surrogate pair ended in a traceback."""
    (tmp_path / "line.txt").write_text(" ".join(f"word {number}" for number in range(40_000)))
    (tmp_path / "pairs.jsonl").write_text("".join(f'{{"text": "\\ud800 {n} \\ud83d\\ude00"}}\n' for n in range(60)))
    scale = load_scale("tiny", {**SMALL, **corpus_overrides(str(tmp_path)), "heldout_blocks": "4"})
    corpus = open_corpus(scale, tmp_path / "cache", "secret")

    assert len(corpus.train) > len(corpus.heldout) > 10_000
    assert "? 7 \N{GRINNING FACE}".encode() in b"".join(
        part.tobytes() for part in (corpus.train, corpus.heldout, corpus.verification)
    )


def test_shards_of_token_numbers_are_read_with_their_tokenizer(tmp_path: Path) -> None:
    """As nanoGPT writes them; without a tokenizer nobody could ask the model in words."""
    text = "\n".join(f"line {number} of a text" for number in range(8000)).encode()
    np.frombuffer(text, dtype=np.uint8).tofile(tmp_path / "shard-0.bin")
    scale = load_scale("tiny", {**SMALL, **corpus_overrides(str(tmp_path)), "heldout_blocks": "1"})
    with pytest.raises(CorpusError, match="holds token numbers: set tokenizer"):
        open_corpus(scale, tmp_path / "cache", "secret")
    (tmp_path / "tokens.json").write_text(json.dumps({"tokenizer": "bytes"}))
    corpus = open_corpus(scale, tmp_path / "cache", "secret")

    assert len(corpus.train) + len(corpus.heldout) + len(corpus.verification) == len(text)
    assert corpus.tokens.decode(corpus.train[:4].tolist())


def test_too_little_or_unreadable_text_is_refused_with_a_message(tmp_path: Path) -> None:
    """Before any training."""
    scale = load_scale("tiny", {**SMALL, **corpus_overrides(str(tmp_path))})
    with pytest.raises(CorpusError, match="holds no file"):
        open_corpus(scale, tmp_path / "cache", "secret")
    (tmp_path / "a.txt").write_text("a word")
    with pytest.raises(CorpusError, match="lower heldout_blocks or context"):
        open_corpus(scale, tmp_path.parent / "cache", "secret")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(CorpusError, match="is not text in UTF-8"):
        open_corpus(scale, tmp_path.parent / "cache", "secret")
    lines = (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    for line, reason in (("5", "has no field 'text'"), ('{"text": null}', "has no field 'text' with text"),
                         ('{"text": "cut', "is not JSON: Unterminated string"), ("[" * 100_000, "is not JSON: "),
                         (f'{{"text": "a", "n": {"1" * 5000}}}', "is not JSON: ")):  # fmt: skip
        lines.write_text(f'{{"text": "a word"}}\n\n{line}\n')
        with pytest.raises(CorpusError, match=rf"a\.jsonl, line 3 {reason}"):
            open_corpus(scale, tmp_path.parent / "cache", "secret")
    (tmp_path / "tokens.json").write_text('["gpt2"]')
    with pytest.raises(CorpusError, match=r"tokens\.json must be JSON such as"):
        open_corpus(scale, tmp_path.parent / "cache", "secret")
    with pytest.raises(ScaleError, match="corpus files needs a dataset"):
        load_scale("tiny", {"corpus": "files"})


@pytest.mark.parametrize("closed", ["text", "text/folder/a.txt"])
def test_text_that_the_user_of_an_engineer_may_not_read_is_refused(closed: str) -> None:
    """It was taken for a fault of the machine, so that each check was repeated without end."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text/folder/a.txt")
        file.parent.mkdir(parents=True)
        file.write_text("a word")
        Path(folder).chmod(0o777)
        Path(folder, closed).chmod(0)
        scale = load_scale("tiny", {**SMALL, **corpus_overrides(str(file.parent))})
        os.seteuid(user or 65534)  # root may read all
        try:
            with pytest.raises(CorpusError, match="may not be read by the engineer's user: allow it"):
                open_corpus(scale, Path(folder, "cache"), "secret")
        finally:
            os.seteuid(user)
            Path(folder, closed).chmod(0o700)


def test_a_scale_file_and_a_corpus_become_overrides_in_the_run_settings(tmp_path: Path) -> None:
    """In the words of a scale that exists, so that every engineer knows them; --set wins."""
    path = tmp_path / "hybrid.toml"  # with a byte order mark, as editors on Windows write it
    path.write_text((EXAMPLES / "scales" / "hybrid.toml").read_text(encoding="utf-8"), encoding="utf-8-sig")
    options = RunOptions.read({"scale": str(path), "corpus": str(tmp_path), "set": ["blocks=2"]})

    assert (options.scale, options.overrides["blocks"], options.overrides["dataset"]) == ("mini", "2", str(tmp_path))
    assert options.overrides["pattern"] == "candidate,candidate,candidate,softmax_attention"
    assert load_scale(options.scale, options.overrides).own_layers == 2
    (tmp_path / "empty").mkdir()
    for corpus in ("nowhere", str(tmp_path / "empty"), "/dev/null"):
        with pytest.raises(SettingsError, match=f"--corpus: there is no file or folder {corpus}"):
            RunOptions.read({"corpus": corpus})
    with pytest.raises(ValueError, match="has the base 'big'"):
        parse_scale_file('base = "big"', "own.toml")
    with pytest.raises(ScaleError, match="pattern names 'softmax'"):
        load_scale("mini", {"pattern": "candidate,softmax"})
    with pytest.raises(ScaleError, match="leaves no layer"):
        load_scale("mini", {"pattern": "gla"})


@pytest.mark.slow
async def test_own_task_files_and_a_plugged_in_evaluator_score_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the local tasks, averaged with them where the scale says so."""
    monkeypatch.syspath_prepend(str(installed(tmp_path)))
    plugin_names.cache_clear()
    tasks = {"tasks": "copying,parity,copied_text", "averaged": "copying,parity", "task_limit": "8"}
    scale = load_scale("tiny", {**QUICK, **tasks, "task_path": str(EXAMPLES / "tasks")})
    result = await train(CONVOLUTION, 0, scale, open_corpus(scale, Path("unused"), "tests"), InlineSandbox())
    plugin_names.cache_clear()

    assert [(score.task, score.metric) for score in result.scores] == [
        ("copying", "acc"),
        ("parity", "acc"),
        ("copied_text", "gain"),
    ]
    assert result.benchmark == pytest.approx(sum(score.value for score in result.scores[:2]) / 2)


def test_tasks_that_are_all_in_own_files_need_no_list_of_the_shipped_ones() -> None:
    """Which takes seven seconds, at the start of an engineer and in each evaluation."""
    assert task_manager(["parity"], str(EXAMPLES / "tasks")).all_tasks == ["parity"]
    assert task_manager([], "").all_tasks == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PARITY.replace("metric: acc", "metric: brier_score"), "parity measures brier_score: a score is one of acc, "),
        ("group: parity\ntask: [bits]\n", "parity is a group of tasks: list them, as in bits"),
        (PARITY.replace("answer", "reply"), "'reply' is undefined.: write a valid task file in UTF-8 into "),
    ],
)
def test_an_own_task_that_gives_no_score_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    """Its first evaluation did not end, since no exception may be a StopIteration in a future."""
    (tmp_path / "parity.yaml").write_text(content)
    (tmp_path / "bits.yaml").write_text(PARITY.replace("task: parity", "task: bits"))
    (tmp_path / "parity.py").symlink_to(EXAMPLES / "tasks" / "parity.py")
    scale = load_scale("mini", {"tasks": "parity", "task_path": str(tmp_path)})

    with pytest.raises(EvaluationUnavailable, match=reason):
        require_tasks(scale, shipped=False)


def test_a_plugged_in_probe_and_move_are_used(tmp_path: Path) -> None:
    """By the check of a program, and in the library of the offline search, also where no command line is installed."""
    environment = {**os.environ, "PYTHONPATH": str(installed(tmp_path)), "ASI_DATA_DIR": str(tmp_path / "data")}
    program = str(EXAMPLES / "programs" / "decaying_average.py")
    check = [sys.executable, "-m", "services.engineer.tools", "check", program, "--scale", "mini", "--json"]
    done = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    code = (
        "import sys; sys.modules['rich'] = sys.modules['typer'] = None; "
        "from services.mixers.moves import BY_NAME; print(BY_NAME['plain_read'].what)"
    )
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert {"probe": "scaling", "outcome": "pass"}.items() <= report["verdicts"][-1].items()
    assert finished.stdout.startswith("an ungated read")


def test_a_plugged_in_object_of_another_kind_or_with_a_taken_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the entry point, in which it has to be changed."""
    plugin_names.cache_clear()
    monkeypatch.syspath_prepend(str(installed(tmp_path)))

    with pytest.raises(SettingsError, match=r"of asi_arch\.moves has the name of another Move, plain_read: rename it"):
        load_all(MOVES, Move, lambda move: move.name, ["plain_read"])
    with pytest.raises(SettingsError, match=r"of asi_arch\.moves must be Path or a tuple of it"):
        load_all(MOVES, Path, lambda path: path.name, [])
    plugin_names.cache_clear()


@pytest.mark.slow
def test_a_check_imports_the_compiler_for_programs_that_need_it(tmp_path: Path) -> None:
    """Torch imports it at the first call of its own checkpoints, which a check could not."""
    program = tmp_path / "program.py"
    uses = "from torch.utils.checkpoint import checkpoint; x = checkpoint(torch.tanh, x, use_reentrant=False)"
    program.write_text(mixer(uses))
    check = [sys.executable, "-m", "services.engineer.tools", "check", str(program), "--scale", "mini"]

    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.usefixtures("prepared_child")
async def test_hybrids_and_programs_that_shape_the_whole_model_train() -> None:
    """A layer of attention from the zoo, two mixers of the program in turn, and blocks in parallel."""
    base, overrides = parse_scale_file((EXAMPLES / "scales" / "hybrid.toml").read_text(), "hybrid.toml")
    scale = load_scale(base, {**overrides, **QUICK, "blocks": "4", "width": "32", "heads": "2"})
    corpus = open_corpus(scale, Path("unused"), "tests")
    program = (EXAMPLES / "programs" / "two_mixers.py").read_text()
    result = await train(program, 0, scale, corpus, InlineSandbox())
    plain = await train(program, 0, load_scale("mini", {**QUICK, "blocks": "4"}), corpus, InlineSandbox())

    assert 2.0 < result.loss < 6.5
    assert result.measurements.parameters != plain.measurements.parameters
