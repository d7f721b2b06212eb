"""Settings become connected models."""

import asyncio
import logging
from urllib.parse import urlsplit

from services.llm.booking import Books
from services.llm.circuit import Circuit
from services.llm.dialect import Dialect
from services.llm.exchange import Line, connect
from services.llm.scrub import Scrubber
from services.llm.settings import Endpoint, MindSettings
from services.llm.target import Target

_LOGGERS = ("openai", "openai._base_client", "httpx", "httpx2", "httpcore", "httpcore2")


def scrubber_of(settings: MindSettings) -> Scrubber:
    """A scrubber that knows every key, and every password in an address."""
    keys = [key.get_secret_value() for key in settings.keys.values()]
    passwords = [urlsplit(address).password or "" for address in settings.addresses.values()]
    return Scrubber([*keys, *passwords])


def guard_logs(scrubber: Scrubber) -> None:
    """Keep secrets out of what the client libraries log."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(scrubber.filter)


def release_logs(scrubber: Scrubber) -> None:
    """Undo `guard_logs`, once the mind is closed."""
    for name in _LOGGERS:
        logging.getLogger(name).removeFilter(scrubber.filter)


def targets_of(settings: MindSettings, books: Books, scrubber: Scrubber) -> dict[str, Target]:
    """Every model of the settings by its key; models of one endpoint share its connections and slots."""
    lines = {name: _line(settings, name, books, scrubber) for name in settings.endpoints}
    slots = {name: asyncio.Semaphore(endpoint.concurrency) for name, endpoint in settings.endpoints.items()}
    return {
        key: Target(
            model,
            lines[model.endpoint],
            slots[model.endpoint],
            _dialect(settings.endpoints[model.endpoint]),
            settings.endpoints[model.endpoint].bytes_per_token,
            Circuit(settings.retry.circuit),
            books,
        )
        for key, model in settings.models.items()
    }


def _line(settings: MindSettings, name: str, books: Books, scrubber: Scrubber) -> Line:
    client = connect(settings.addresses[name], settings.keys[name])
    return Line(client, settings.endpoints[name].timeout_seconds, scrubber, books.clock.now)


def _dialect(endpoint: Endpoint) -> Dialect:
    if endpoint.structured == "auto":
        return Dialect()
    return Dialect(endpoint.structured, adaptable=False)
