"""The connection to MongoDB and the translation of its errors. The only module that imports motor.

Motor gets only critical fixes, until 2027-05. PyMongo's own asynchronous client passes the same tests: to switch, set
`DRIVER` to `pymongo.AsyncMongoClient`. All differences between the two are handled in this module.
"""

import inspect
import re
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
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from services.chassis.errors import SettingsError
from services.store.port import ArchiveUnavailable, OtherWriter

SELECTION_SECONDS = 3.0
CALL_SECONDS = 60.0
DATABASE = "asi"
"""The database of a URL that names none."""

Document = dict[str, Any]  # as the driver returns it; rows are typed
Client: TypeAlias = "AsyncIOMotorClient[Document]"
Collection: TypeAlias = "AsyncIOMotorCollection[Document]"
Database: TypeAlias = "AsyncIOMotorDatabase[Document]"
Session: TypeAlias = AsyncIOMotorClientSession

DRIVER: Callable[..., Client] = AsyncIOMotorClient
_SNAPSHOT = ReadConcern("snapshot")
_DURABLE = WriteConcern(w="majority", j=True)
_UNAVAILABLE_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")
_UNAVAILABLE_CODES = frozenset({24, 26, 39, 43, 50, 64, 91, 112, 175, 215, 246, 262, 361, 11600, 11601, 11602, 14031})
"""File errors, timeouts, shutdown, a lost snapshot or cursor, damaged data, interruption, a full disk, and errors of
queries whose collection is dropped meanwhile."""
_WRITE_CONFLICT = 112
_REFUSED_CODES = {13: "may not use this database", 18: "failed to authenticate"}


def parse(url: str) -> None:
    """Raises SettingsError for an invalid URL. Not for mongodb+srv://, which the name service resolves."""
    try:
        parse_uri(url)
    except (ConfigurationError, ValueError) as error:
        raise SettingsError(f"ASI_ARCHIVE_URL is no MongoDB address: {error}.") from None


def connect(url: str) -> Client:
    """A client for the running event loop. Raises SettingsError for an invalid URL."""
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
    end: Callable[[], Any] = client.close
    await _settled(end())


async def aggregated(collection: Collection, steps: Sequence[Document]) -> list[Document]:
    """All documents of an aggregation."""
    documents: list[Document] = await (await _settled(collection.aggregate(list(steps)))).to_list(None)
    return documents


def database(client: Client) -> Database:
    """The database that the URL names."""
    return client.get_default_database(DATABASE)


async def require_replica_set(client: Client) -> None:
    """Raises SettingsError for a single server, which has no transactions."""
    hello: Mapping[str, object] = await client.admin.command("hello")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise SettingsError(
            "ASI_ARCHIVE_URL names a MongoDB server that is not part of a replica set, so it has no transactions: "
            "start it with --replSet and run rs.initiate() once."
        )


@asynccontextmanager
async def transaction(client: Client) -> AsyncIterator[Session]:
    """A transaction, durable on a majority. A write conflict raises ArchiveUnavailable."""
    async with (
        await _settled(client.start_session()) as session,
        await _settled(session.start_transaction(_SNAPSHOT, _DURABLE)),
    ):
        yield session


@asynccontextmanager
async def snapshot(client: Client) -> AsyncIterator[Session]:
    """A session whose reads all see the same snapshot."""
    async with await _settled(client.start_session(snapshot=True)) as session:
        yield session


@asynccontextmanager
async def translate_errors(running: bool = False) -> AsyncIterator[None]:
    """Translate errors of the server to those of the port; programming errors in queries pass through.

    While `running`, missing rights are an outage, which ends when they are granted again, not a SettingsError.
    """
    try:
        yield
    except PyMongoError as error:
        code = error.code if isinstance(error, OperationFailure) else None
        if code in _REFUSED_CODES and not running:
            raise SettingsError(f"ASI_ARCHIVE_URL: its user {_REFUSED_CODES[code]} ({error}).") from error
        writes = error.details["writeErrors"] if isinstance(error, BulkWriteError) else []
        if (
            isinstance(error, ConnectionFailure | ExecutionTimeout)
            or code in _UNAVAILABLE_CODES | _REFUSED_CODES.keys()
            or any(write["code"] in _UNAVAILABLE_CODES for write in writes)
            or any(error.has_error_label(label) for label in _UNAVAILABLE_LABELS)
        ):
            if _WRITE_CONFLICT in (code, *(write["code"] for write in writes)):
                raise OtherWriter(
                    "MongoDB: another store writes at the same time, or one that was killed still holds its locks: "
                    "they end after transactionLifetimeLimitSeconds"
                ) from error
            raise ArchiveUnavailable(f"MongoDB: {writes[0]['errmsg'] if writes else _reason(error)}") from error
        raise


def _reason(error: PyMongoError) -> str:
    """The message without the driver's timeouts, its view of all servers and the server's whole answer."""
    return re.sub(r" \(configured timeouts: [^)]*\)|, (Timeout|full error): .*", "", str(error), flags=re.DOTALL)


async def _settled(value: Any) -> Any:
    """The value, which one driver returns directly and the other as an awaitable."""
    return await value if inspect.isawaitable(value) else value
