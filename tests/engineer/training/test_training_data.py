"""Text becomes tokens: disjoint parts, a fingerprint, an order that depends on the seed alone."""

import json
import os
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from services.engineer.data import Corpus, CorpusError, batches, heldout_blocks, other_corpus
from services.engineer.data.corpus import ByteTokens, documentation, part_of, python_source, read_secret
from services.engineer.data.hub import ShardStore, fill, hub_corpus
from services.engineer.scales import load_scale

SECRET = b"of the tests"
HUB = {"corpus": "hub", "text_field": "text", "tokens": "5000", "heldout_blocks": "4", "context": "24"}
TEXTS = [f"document {number} " * 20 for number in range(300)]


def test_too_little_text_raises_a_clear_error(tmp_path: Path) -> None:
    """A Python without library sources must be reported before a training."""
    (tmp_path / "a.py").write_text("x = 1")

    with pytest.raises(CorpusError, match="bytes of Python source"):
        python_source(SECRET, tmp_path)


def test_a_lost_secret_is_reported_where_work_was_done(tmp_path: Path) -> None:
    """A new one splits the text anew, so that results differ from the folder's earlier ones."""
    with capture_logs() as logs:
        first = read_secret(tmp_path / "data")
        assert read_secret(tmp_path / "data") == first
        (tmp_path / "data" / "secret").unlink()
        (tmp_path / "work").mkdir()
        assert read_secret(tmp_path / "data") != first

    assert [entry["event"] for entry in logs] == ["the secret of held-out text was lost, a new one is drawn"]


def test_parts_are_disjoint_and_their_fingerprint_repeats(corpus: Corpus) -> None:
    """No held-out file may also be trained on."""
    again = python_source(corpus.secret)
    sample = corpus.heldout[:2000].tobytes()

    assert again.fingerprint == corpus.fingerprint
    assert sample not in corpus.train.tobytes()
    assert len(corpus.train) > 10 * len(corpus.heldout)


def test_the_second_corpus_is_prose_with_the_same_tokenizer(corpus: Corpus) -> None:
    """Enough of it to train at tiny on as well, and none of it stands in the first corpus."""
    second = other_corpus(corpus)
    text = second.train.tobytes().decode()

    assert len(second.train) > 1_200_000
    assert min(len(second.heldout), len(second.verification)) > 256 * 257
    assert second.tokens.vocabulary == corpus.tokens.vocabulary
    assert sum(letter.isalpha() or letter.isspace() for letter in text) > 0.9 * len(text)
    assert second.heldout[:2000].tobytes() not in second.train.tobytes()
    assert other_corpus(second).fingerprint == corpus.fingerprint


def test_the_documentation_corpus_holds_each_sentence_once(tmp_path: Path) -> None:
    """Code, lists of parameters and paragraphs that stand elsewhere too are left out."""
    sentence = "Reads a whole paragraph of plain words, which goes on for a while and then ends with a full stop."
    (tmp_path / "a.py").write_text(f'def f():\n    """{sentence}\n\n    x : int\n    >>> f()\n    """\n')
    (tmp_path / "b.py").write_text(f'"""{sentence}\n\n{sentence.replace("Reads", "Writes")}"""\nraise SystemExit\n')

    corpus = documentation(SECRET, ByteTokens(), (tmp_path,), least_bytes=1)
    parts = b"\n".join(part.tobytes() for part in (corpus.train, corpus.heldout, corpus.verification))

    assert sorted(parts.decode().split("\n"))[-2:] == [sentence, sentence.replace("Reads", "Writes")]
    assert len(parts.split()) == 2 * len(sentence.split())
    with pytest.raises(CorpusError, match="bytes of prose"):
        documentation(SECRET, ByteTokens(), (tmp_path,))


def test_the_order_depends_on_the_seed_and_can_start_anywhere() -> None:
    """A resumed run sees what an uninterrupted one would have seen, over the end of an epoch too."""
    part = np.arange(1000, dtype=np.uint16)
    batches_of_run = list(batches(part, batch=4, context=16, seed=3, first=0, count=40))
    tail = list(batches(part, batch=4, context=16, seed=3, first=25, count=15))
    other = list(batches(part, batch=4, context=16, seed=4, first=0, count=1))

    assert all(np.array_equal(a, b) for a, b in zip(batches_of_run[25:], tail, strict=True))
    assert not np.array_equal(batches_of_run[0], other[0])


def test_heldout_blocks_do_not_overlap() -> None:
    """Blocks that share tokens would make the standard error too small."""
    blocks = heldout_blocks(np.arange(1000, dtype=np.uint16), count=10, context=64)

    assert blocks.shape == (10, 65)
    assert len(set(blocks.flatten().tolist())) == 650


def test_interrupted_tokenising_resumes_to_the_same_tokens(tmp_path: Path) -> None:
    """Tokenising a billion tokens takes hours; a crash must cost at most a shard."""
    demand = {"train": 40_000, "heldout": 500, "verification": 500}
    whole, broken = ShardStore(tmp_path / "whole"), ShardStore(tmp_path / "broken")
    fill(whole, demand, ByteTokens(), TEXTS, SECRET, shard=8000)

    with pytest.raises(CorpusError, match="ends after"):
        fill(broken, demand, ByteTokens(), TEXTS[:60], SECRET, shard=8000)
    again = ShardStore(tmp_path / "broken")
    fill(again, demand, ByteTokens(), TEXTS[again.progress.documents :], SECRET, shard=8000)

    assert np.array_equal(again.part("train")[:40_000], whole.part("train")[:40_000])
    assert np.array_equal(again.part("heldout")[:500], whole.part("heldout")[:500])


def test_a_local_dataset_and_tokenizer_become_a_corpus(tmp_path: Path) -> None:
    """The code path of the hub, without a network."""
    source = tmp_path / "texts"
    source.mkdir()
    (source / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    words = {"<end>": 0, "document": 1, "<unknown>": 2} | {str(n): n + 3 for n in range(300)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")  # noqa: S106
    wrapped.save_pretrained(tmp_path / "tokenizer")
    scale = load_scale("tiny", {**HUB, "dataset": str(source), "tokenizer": str(tmp_path / "tokenizer")})

    corpus = hub_corpus(scale, tmp_path / "cache", SECRET)

    assert corpus.tokens.vocabulary == len(words)
    assert len(corpus.train) >= 5000
    assert corpus.heldout_bytes_per_token > 1
    assert {part_of(t.encode(), SECRET) for t in TEXTS} == {"train", "heldout", "verification"}


def test_an_unreachable_dataset_is_reported_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the fix."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(CorpusError, match="cannot be read"):
        hub_corpus(load_scale("tiny", {**HUB, "dataset": "a/b", "tokenizer": str(tmp_path / "no")}), tmp_path, SECRET)


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_not_asked_for_a_tokenizer() -> None:
    """Its client would repeat each of several requests, for half a minute where no connection is possible."""
    asked = list[bytes]()

    class Silent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(1000).partition(b"\r")[0])

    code = "from services.engineer.data.hub import open_tokens; open_tokens('a/b')"
    with socketserver.TCPServer(("127.0.0.1", 0), Silent) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        hub.shutdown()

    assert "CorpusError: The tokenizer a/b cannot be read" in done.stderr
    assert asked[0] == b"HEAD / HTTP/1.1"
    assert [line for line in asked if b"a/b" in line] == []
