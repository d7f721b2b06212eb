"""The choice of the embedder; vectors of different embedders are never compared."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import SettingsError, Transient
from services.chassis.worker import Job
from services.contracts import candidate_pb2 as pb
from services.llm.embedder import LocalEmbedder
from services.llm.minds import Minds
from services.llm.openai_embedder import MotivationEmbedder, OpenAIEmbedder, RunEmbedder, endpoint_embedder
from services.llm.port import BudgetExhausted, Role
from services.llm.scripted import Script, ScriptedEndpoint, Step
from services.llm.settings import EmbeddingSettings, MindSettings, validate_prices
from tests.archive_server import archive_client
from tests.llm.budget_archive import Archive, Recorder, job_of
from tests.llm.scripted_minds import KEY, script, settings

DESCRIBED = {"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": KEY}


async def test_a_described_endpoint_embeds_without_a_configured_mind() -> None:
    """A run that thinks offline may compare motivations by a model."""
    async with ScriptedEndpoint(script()) as server:
        embedder = endpoint_embedder(DESCRIBED | {"OPENAI_BASE_URL": server.base_url})
        assert embedder is not None
        (vector,) = await embedder.embed(["gate"])
        await embedder.close()

    assert vector.embedder == "openai:small"
    assert server.received[0].path.endswith("/embeddings")


@pytest.mark.parametrize("environment", [{}, {"ASI_EMBEDDER": "local"}, DESCRIBED | {"ASI_EMBEDDER": "local"}])
def test_no_endpoint_is_called_unless_requested_and_described(environment: dict[str, str]) -> None:
    """The default needs no network."""
    assert endpoint_embedder(environment) is None


@pytest.mark.parametrize(
    ("environment", "fix"),
    [({"ASI_EMBEDDER": "openai"}, "set ASI_EMBEDDING_MODEL"), ({"ASI_EMBEDDER": "bert"}, "choose local or openai")],
)
def test_an_impossible_choice_is_refused_with_the_fix(environment: dict[str, str], fix: str) -> None:
    """At the start, not at the first candidate."""
    with pytest.raises(SettingsError, match=fix):
        endpoint_embedder(environment)


def test_a_budget_in_money_needs_a_price_of_every_model(tmp_path: Path) -> None:
    """Reported before the start, since every candidate would be rejected."""
    roles = "".join(f'[roles.{role.value}]\nmodels = ["m"]\n' for role in Role)
    unpriced_file, priced_file = tmp_path / "unpriced.toml", tmp_path / "priced.toml"
    unpriced_file.write_text(f'[models.m]\nname = "m"\n{roles}[embedding]\nmodel = "small"\n')
    prices = "price_prompt = 1.0\nprice_completion = 2.0\n"
    priced_file.write_text(f'[models.m]\nname = "m"\n{prices}{roles}[embedding]\nmodel = "small"\nprice = 0.02\n')
    without = DESCRIBED | {"ASI_MIND_FILE": str(unpriced_file)}

    validate_prices(DESCRIBED | {"ASI_MIND_FILE": str(priced_file)}, mind=True, money=True)
    validate_prices(without, mind=True, money=False)
    validate_prices(without | {"ASI_EMBEDDER": "local"}, mind=False, money=True)
    with pytest.raises(SettingsError, match=r"embedding, models\.m has none.*--tokens"):
        validate_prices(without, mind=True, money=True)
    with pytest.raises(SettingsError, match="embedding has none"):
        validate_prices(DESCRIBED, mind=False, money=True)
    with pytest.raises(SettingsError, match="ASI_MODEL is not set"):
        validate_prices({}, mind=True, money=False)


@dataclass
class System:
    """Everything that embeds for a run, and what it left behind."""

    server: ScriptedEndpoint
    archive: Archive
    bus: Recorder
    minds: Minds
    embedder: RunEmbedder
    job: Job

    @property
    def spaces(self) -> MotivationEmbedder:
        return MotivationEmbedder(LocalEmbedder(64), self.embedder)

    @property
    def calls(self) -> list[pb.Call]:
        """The calls recorded as facts of the candidate."""
        return [event.mind_answered.call for event in self.bus.events]


@asynccontextmanager
async def embedding_system(bus: Bus, folder: Path, script: Script, tokens: int | None = None) -> AsyncIterator[System]:
    """A researcher's embedder, with an endpoint that plays this script and an archive with a budget of tokens."""
    archive, through = Archive(tokens), Recorder(bus)
    async with ScriptedEndpoint(script) as server, archive_client(archive) as stub:
        minds = Minds("researcher", through, stub, folder.as_uri())  # type: ignore[arg-type]
        endpoint = OpenAIEmbedder(priced(server.base_url), rng=random.Random(0))
        embedder = RunEmbedder(endpoint, minds)
        yield System(server, archive, through, minds, embedder, job_of(bus))
        await embedder.close()
        await minds.close()


def priced(url: str) -> MindSettings:
    """A model at two dollars per million tokens."""
    chosen = EmbeddingSettings(endpoint="e0", model="small", price=2.0)
    return settings(url, attempts=4).model_copy(update={"embedding": chosen})


def everything_below(folder: Path) -> str:
    return str([file.read_bytes() for file in folder.rglob("*") if file.is_file()])


async def test_a_run_keeps_its_embedding_space(bus: Bus, tmp_path: Path) -> None:
    """Nearest motivations are found within one space only: another one would find nothing, and all would look new."""
    async with embedding_system(bus, tmp_path, script()) as system:
        first = await system.spaces.motivation("gate", "", "offline", system.job)
        local = await system.spaces.motivation("gate", "hashed-64-v1", "offline", system.job)
        asked_once = len(system.server.received)
        with pytest.raises(Transient, match=r"openai:large.*set ASI_EMBEDDER"):
            await system.spaces.motivation("gate", "openai:large", "offline", system.job)
        alone = await MotivationEmbedder(LocalEmbedder(64)).motivation("gate", "", "offline", system.job)

    assert (first.embedder, local.embedder, alone.embedder) == ("openai:small", "hashed-64-v1", "hashed-64-v1")
    assert asked_once == len(system.server.received) == 1


async def test_what_is_embedded_for_a_candidate_is_booked_and_recorded(bus: Bus, tmp_path: Path) -> None:
    """Every exchange, those that failed too, with what it cost and took; the key is nowhere."""
    plays = Script(embeddings=(Step(fault="server_error"), Step(fault="malformed"), Step(fault="truncated")))
    async with embedding_system(bus, tmp_path, plays) as system:
        vector = await system.embedder.vector("a gate that holds " + KEY, "offline", system.job)

    failed, broken, short, answered = system.calls
    assert vector is not None
    assert [call.error for call in (failed, broken, short, answered)] == [
        "server_error",
        "malformed",
        "malformed",
        "",
    ]
    assert {(call.role, call.model, call.endpoint) for call in system.calls} == {("embed", "small", "e0")}
    assert answered.prompt_tokens > 0
    assert answered.price == pytest.approx(2e-6 * answered.prompt_tokens)
    assert len({call.prompt_hash for call in system.calls}) == 1
    assert [settlement.tokens for settlement in system.archive.settled] == [
        0,
        0,
        short.prompt_tokens,
        answered.prompt_tokens,
    ]
    assert [settlement.HasField("tokens") for settlement in system.archive.settled] == [True, False, True, True]
    assert KEY not in str(system.bus.events) + everything_below(tmp_path)


async def test_what_the_budget_does_not_cover_is_not_embedded(bus: Bus, tmp_path: Path) -> None:
    """Nothing is sent; the seat ends as it does when a mind cannot be paid."""
    async with embedding_system(bus, tmp_path, script(), tokens=0) as system:
        with pytest.raises(BudgetExhausted, match="does not cover"):
            await system.spaces.motivation("gate", "", "offline", system.job)

    assert (system.server.received, system.bus.events) == ([], [])


async def test_a_cancelled_embedding_call_is_booked(bus: Bus, tmp_path: Path) -> None:
    """The endpoint may charge: the whole reservation is booked, and the call is recorded."""
    async with embedding_system(bus, tmp_path, Script(embeddings=(Step(fault="hang"),))) as system:
        asking = asyncio.ensure_future(system.embedder.vector("gate", "offline", system.job))
        await system.server.arrived.wait()
        asking.cancel()
        await asyncio.wait([asking])

    assert asking.cancelled()
    assert [call.error for call in system.calls] == ["cancelled"]
    assert [settlement.HasField("tokens") for settlement in system.archive.settled] == [False]


async def test_a_recorded_run_takes_its_vectors_from_the_record(bus: Bus, tmp_path: Path) -> None:
    """To the letter, or by the embedder that asks nobody; a fork asks the endpoint for what is not on record."""
    async with embedding_system(bus, tmp_path, script()) as system:
        original = await system.spaces.motivation("gate", "", "offline", system.job)
        system.archive.book(system.calls[0])
        replayed = await system.spaces.motivation("gate", "", "recorded:r1", system.job)
        without = await MotivationEmbedder(LocalEmbedder(64), RunEmbedder(None, system.minds)).motivation(
            "gate", "openai:small", "recorded:r1", system.job
        )
        unknown = await system.embedder.vector("another gate", "recorded:r1", system.job)
        new = await system.spaces.motivation("another gate", "", "recorded:r1", system.job)

    assert original == replayed == without
    assert unknown is None
    assert new.embedder == "hashed-64-v1"
    assert len(system.server.received) == len(system.bus.events) == 1
