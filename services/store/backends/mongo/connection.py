"""The connection to MongoDB, and its errors in the port's words. The one place that imports motor.

Motor gets no more than critical fixes until 2027-05. PyMongo's own asynchronous client passes the same tests: to change
over, set `DRIVER` to `pymongo.AsyncMongoClient`. What the two do differently is in this module.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorClientSession,
    AsyncIOMotorCollection,
    AsyncIOMotorDatabase,
)
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from services.chassis.errors import SettingsError
from services.store.port import ArchiveUnavailable

SELECTION_SECONDS = 3.0
CALL_SECONDS = 60.0
DATABASE = "asi"
"""The database of a URL that names none."""

Document = dict[str, Any]  # what the driver gives: typed where a row is made of it
Client: TypeAlias = "AsyncIOMotorClient[Document]"
Collection: TypeAlias = "AsyncIOMotorCollection[Document]"
Database: TypeAlias = "AsyncIOMotorDatabase[Document]"
Session: TypeAlias = AsyncIOMotorClientSession

DRIVER: Callable[..., Client] = AsyncIOMotorClient
_SNAPSHOT = ReadConcern("snapshot")
_DURABLE = WriteConcern(w="majority", j=True)
_AWAY_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")
_AWAY_CODES = frozenset({24, 26, 39, 43, 50, 64, 91, 112, 175, 215, 246, 262, 361, 11600, 11601, 11602, 14031})
"""A failing file, time-outs, a shutdown, a snapshot or cursor that is gone, damaged data, an interruption, a full
disk, and what a question meets whose collection is dropped meanwhile."""
_REFUSED_CODES = {13: "may not use this database", 18: "is not who it says it is"}


def connect(url: str) -> Client:
    """A client for the running event loop. Raises SettingsError for an impossible URL."""
    try:
        return DRIVER(
            url,
            serverSelectionTimeoutMS=int(SELECTION_SECONDS * 1000),
            connectTimeoutMS=int(SELECTION_SECONDS * 1000),
            socketTimeoutMS=int(CALL_SECONDS * 1000),
            w="majority",
            journal=True,
            readConcernLevel="majority",
        )
    except (ConfigurationError, ValueError, TypeError) as error:  # InvalidURI is a ConfigurationError
        raise SettingsError(f"ASI_ARCHIVE_URL is no MongoDB address: {error}.") from None


async def close(client: Client) -> None:
    """End all connections."""
    end: Callable[[], Any] = client.close
    await _settled(end())


async def aggregated(collection: Collection, steps: Sequence[Document]) -> list[Document]:
    """All documents of an aggregation."""
    found: list[Document] = await (await _settled(collection.aggregate(list(steps)))).to_list(None)
    return found


def database(client: Client) -> Database:
    """The database that the URL names."""
    return client.get_default_database(DATABASE)


async def require_replica_set(client: Client) -> None:
    """Raises SettingsError for a single server, which has no transactions."""
    hello: Mapping[str, object] = await client.admin.command("hello")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise SettingsError(
            "ASI_ARCHIVE_URL names a MongoDB server that is no replica set and has no transactions: "
            "start it with --replSet and run rs.initiate() once."
        )


@asynccontextmanager
async def transaction(client: Client) -> AsyncIterator[Session]:
    """All or nothing, durable on a majority. A conflict with another writer raises ArchiveUnavailable."""
    async with (
        await _settled(client.start_session()) as session,
        await _settled(session.start_transaction(_SNAPSHOT, _DURABLE)),
    ):
        yield session


@asynccontextmanager
async def moment(client: Client) -> AsyncIterator[Session]:
    """A session whose reads all see the same moment."""
    async with await _settled(client.start_session(snapshot=True)) as session:
        yield session


@asynccontextmanager
async def translated(running: bool = False) -> AsyncIterator[None]:
    """What the driver says about the server, in the port's words; our own mistakes in queries stay as they are.

    Args:
        running: what is refused to a user is an outage then, which ends when its rights are given back.
    """
    try:
        yield
    except PyMongoError as error:
        code = error.code if isinstance(error, OperationFailure) else None
        if code in _REFUSED_CODES and not running:
            raise SettingsError(f"ASI_ARCHIVE_URL: its user {_REFUSED_CODES[code]} ({error}).") from error
        away = isinstance(error, ConnectionFailure | ExecutionTimeout) or code in _AWAY_CODES | _REFUSED_CODES.keys()
        writes = error.details["writeErrors"] if isinstance(error, BulkWriteError) else []
        away = away or any(write["code"] in _AWAY_CODES for write in writes)
        if away or any(error.has_error_label(label) for label in _AWAY_LABELS):
            raise ArchiveUnavailable(f"MongoDB: {writes[0]['errmsg'] if writes else error}") from error
        raise


async def _settled(value: Any) -> Any:
    """The value itself, which one driver gives at once and the other one when awaited."""
    return await value if inspect.isawaitable(value) else value
