"""A file of recorded exchanges answers questions without an endpoint; the shipped one stays usable."""

from collections import Counter
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.analyst.model_analyst import AnalysisAnswer
from services.chassis.errors import SettingsError
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY
from services.domain.structure import fingerprint
from services.judge.judges import ScoreAnswer
from services.llm.answers import read
from services.llm.port import Message, NotRecorded, Request, Role, exchange_file, validate_mind
from services.llm.recorded import Exchange, ExchangedMessage, ExchangeFileMind, read_exchanges
from services.researcher.model_proposer import NoveltyAnswer, ProposalAnswer, apply_edits
from services.researcher.prompt_text import difference_text

EXAMPLES = Path(__file__).parents[2] / "examples"
SHIPPED = EXAMPLES / "recorded-run" / "exchanges.jsonl"
FORMS: dict[str, type[BaseModel]] = {
    form.__name__: form for form in (AnalysisAnswer, NoveltyAnswer, ProposalAnswer, ScoreAnswer)
}


def question(text: str) -> Request[NoveltyAnswer]:
    """The answer to a question of novelty."""
    return Request(Role.JUDGE_NOVELTY, "r1", "c1", (Message("user", text),), NoveltyAnswer, "novelty-1")


def exchange(text: str, reason: str) -> Exchange:
    """A recorded answer to `question(text)`."""
    answer = f'{{"repeat": false, "candidate": "", "reason": "{reason}"}}'
    messages = [ExchangedMessage(role="user", content=text)]
    return Exchange(model="some-model", form="NoveltyAnswer", messages=messages, answer=answer)


async def test_the_answer_to_the_same_messages_is_preferred() -> None:
    """Otherwise answers are given in order, each once; nothing is left at the end."""
    mind = ExchangeFileMind([exchange("a", "first"), exchange("b", "second"), exchange("c", "third")], "recorded:f")

    answers = [await mind.ask(question(text)) for text in ("b", "unknown", "another")]

    assert [answered.answer.reason for answered in answers] == ["second", "first", "third"]
    assert answers[0].calls[0].price == 0.0
    with pytest.raises(NotRecorded, match="no further answer of the form NoveltyAnswer"):
        await mind.ask(question("a"))


@pytest.mark.parametrize(("run", "proposals"), [("recorded-run", 9), ("flagship", 9), ("flagship/tiny", 3)])
async def test_every_shipped_answer_is_given_again(run: str, proposals: int) -> None:
    """A schema that a real model's answer no longer fits is too narrow; to the letter, each question gets its own."""
    recorded = read_exchanges(EXAMPLES / run / "exchanges.jsonl")
    exchanges = [exchange for exchange in recorded if exchange.form != "SummaryAnswer"]  # no longer requested
    mind = ExchangeFileMind(exchanges, f"recorded:{run}")

    for exchange in exchanges:
        messages = tuple(
            Message("user" if message.role == "user" else "system", message.content) for message in exchange.messages
        )
        request = Request(Role.PROPOSE, "r1", "c1", messages, FORMS[exchange.form], "any-1")
        answered = await mind.ask(request)
        assert answered.answer == read(exchange.answer, FORMS[exchange.form])
    assert Counter(exchange.form for exchange in exchanges)["ProposalAnswer"] == proposals


def test_the_shipped_proposals_are_structurally_new_and_keep_their_tags() -> None:
    """No two programs alike up to names; tags outside the vocabulary are kept, not dropped."""
    proposals = [
        read(exchange.answer, ProposalAnswer)
        for exchange in read_exchanges(SHIPPED)
        if exchange.form == "ProposalAnswer"
    ]

    full = [proposal for proposal in proposals if not proposal.edits]
    assert len({fingerprint(proposal.program).digest for proposal in full}) == len(full) > 5
    assert all(len(VOCABULARY.tags(proposal.components)) == len(set(proposal.components)) for proposal in proposals)


def test_edits_change_what_occurs_once() -> None:
    """An edit whose text is missing or ambiguous is refused by name."""
    edits = ProposalAnswer.model_validate(
        {"name": "Net", "motivation": "x" * 40, "edits": [{"search": "b", "replace": "c"}]}
    ).edits

    assert apply_edits(edits, "a b") == "a c"
    with pytest.raises(ValueError, match="edit 1: its search text occurs 2 times"):
        apply_edits(edits, "b b")


def test_a_line_that_is_not_an_exchange_is_named(tmp_path: Path) -> None:
    """File, line and fault."""
    path = tmp_path / "broken.jsonl"
    path.write_text('{"request": {}}\n')

    with pytest.raises(SettingsError, match=r"broken\.jsonl, line 1 is not an exchange: [a-z.0-9]+: Field required\.$"):
        read_exchanges(path)
    path.write_text("[]")
    with pytest.raises(SettingsError, match=r"broken\.jsonl, line 1 is not an exchange: it: "):
        read_exchanges(path)


def test_separators_of_lines_within_a_text_and_a_byte_order_mark_are_no_faults(tmp_path: Path) -> None:
    """JSON need not escape the former; editors on Windows write the latter."""
    line = SHIPPED.read_text(encoding="utf-8").split("\n")[0].replace("You explain", "You\u2028explain", 1)
    (tmp_path / "own.jsonl").write_text(f"{line}\n\n", encoding="utf-8-sig")

    assert read_exchanges(tmp_path / "own.jsonl")[0].messages[0].content.startswith("You\u2028explain")


def test_a_mind_of_a_file_is_validated_and_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Services run in other folders; a file that is not there is refused before the run starts."""
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").touch()

    assert exchange_file(validate_mind("recorded:x.jsonl")) == tmp_path / "x.jsonl"
    assert validate_mind("recorded:r7@120") == "recorded:r7@120"
    with pytest.raises(ValueError, match="is not a file"):
        validate_mind("recorded:absent.jsonl")
    with pytest.raises(ValueError, match="choose offline, openai"):
        validate_mind("parrot")


def test_the_recorded_draft_refused_as_a_repeat_is_a_repeat() -> None:
    """Its program is an earlier candidate's with another constant, which the question of novelty shows now."""
    proposals = {
        answer.name: answer.program
        for exchange in read_exchanges(SHIPPED)
        if exchange.form == "ProposalAnswer" and (answer := read(exchange.answer, ProposalAnswer)).program
    }
    refused = [
        read(exchange.answer, NoveltyAnswer) for exchange in read_exchanges(SHIPPED) if exchange.form == "NoveltyAnswer"
    ]
    earlier = [pb.Candidate(id=name, proposal=pb.Proposal(program=program)) for name, program in proposals.items()
               if name != "ContextKeyedDeltaNet"]  # fmt: skip
    changed = [
        line for line in difference_text(proposals["ContextKeyedDeltaNet"], earlier).splitlines()
        if line[:1] in "+-" and line[:3] not in ("+++", "---") and "class " not in line
    ]  # fmt: skip

    assert [answer.candidate for answer in refused if answer.repeat] == ["c000006"]
    assert [line.strip("+- ") for line in changed] == [
        "span = torch.logspace(3.0, 9.0, num_heads, base=2.0)",
        "span = torch.logspace(4.0, 9.0, num_heads, base=2.0)",
    ]
