"""Settings of models and roles, from a TOML file (ASI_MIND_FILE) or three variables.

Without a file, OPENAI_BASE_URL, OPENAI_API_KEY and ASI_MODEL name one endpoint and one model for all roles. The file
contains no secrets, but the names of variables. deploy/mind.example.toml shows every key.
"""

import random
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from services.chassis.errors import SettingsError
from services.llm.budget import Price
from services.llm.port import Role

Structured = Literal["json_schema", "json_object", "text"]
OPENAI_URL = "https://api.openai.com/v1"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Endpoint(_Frozen):
    """An endpoint; each service has at most `concurrency` requests in flight there."""

    base_url_env: str = "OPENAI_BASE_URL"
    api_key_env: str = Field(default="OPENAI_API_KEY", description="empty for an endpoint that needs no key")
    concurrency: int = Field(default=8, ge=1, le=4096)
    timeout_seconds: float = Field(default=180.0, gt=0, description="for one request, from sending to the last byte")
    structured: Structured | Literal["auto"] = Field(default="auto", description="auto begins with json_schema")
    bytes_per_token: float = Field(default=1.0, ge=1.0, le=8.0, description="for the reserve; 1 is never exceeded")


class Model(_Frozen):
    """A model of an endpoint; budgets in money need its prices (US dollars per million tokens)."""

    endpoint: str = "main"
    name: str = Field(min_length=1)
    price_prompt: float | None = Field(default=None, ge=0)
    price_completion: float | None = Field(default=None, ge=0)

    @property
    def price(self) -> Price | None:
        """None if the settings have no price."""
        if self.price_prompt is None or self.price_completion is None:
            return None
        return Price(self.price_prompt, self.price_completion)

    @model_validator(mode="after")
    def _require_both_prices(self) -> Self:
        if (self.price_prompt is None) != (self.price_completion is None):
            raise ValueError("give both price_prompt and price_completion, or neither")
        return self


class RoleSettings(_Frozen):
    """Models of a role in order of preference; with choice="bandit" gains determine the order."""

    models: tuple[str, ...] = Field(min_length=1)
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    total_seconds: float = Field(
        default=900.0, gt=0, description="for a whole question: waits, retries, repair, all models"
    )
    choice: Literal["first", "bandit"] = "first"


class Retry(_Frozen):
    """Attempts per model, the circuit breaker, and waits (s) with "full jitter" (Brooker 2015, Exponential Backoff)."""

    attempts: int = Field(default=5, ge=1, le=100)
    base_seconds: float = Field(default=1.0, gt=0)
    longest_seconds: float = Field(default=60.0, gt=0)
    circuit_failures: int = Field(default=8, ge=1)
    circuit_seconds: float = Field(default=15.0, gt=0)

    def wait(self, repetition: int, rng: random.Random, retry_after: float | None) -> float:
        """Seconds to wait before repetition 1, 2, …; at least what the endpoint requested."""
        ceiling = min(self.base_seconds * 2.0 ** (repetition - 1), self.longest_seconds)
        jittered = rng.uniform(0.1 * ceiling, ceiling)
        return jittered if retry_after is None else retry_after + 0.1 * jittered


class EmbeddingSettings(_Frozen):
    """A model that embeds texts; budgets in money need its price."""

    endpoint: str = "main"
    model: str = Field(min_length=1)
    price: float | None = Field(default=None, ge=0, description="US dollars per million tokens")
    dimension: int | None = Field(default=None, ge=2)


class MindSettings(_Frozen):
    """The settings of an openai mind; `addresses` and `keys` come from the environment, never from the file."""

    endpoints: dict[str, Endpoint] = Field(default_factory=lambda: {"main": Endpoint()}, min_length=1)
    models: dict[str, Model]
    roles: dict[Role, RoleSettings]
    retry: Retry = Retry()
    embedding: EmbeddingSettings | None = None
    addresses: dict[str, str] = Field(default_factory=dict, exclude=True)
    keys: dict[str, SecretStr] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="after")
    def _require_known_names(self) -> Self:
        users = [(f"models.{name}.endpoint", model.endpoint) for name, model in self.models.items()]
        if self.embedding is not None:
            users.append(("embedding.endpoint", self.embedding.endpoint))
        chosen = [(f"roles.{role.value}.models", name) for role, own in self.roles.items() for name in own.models]
        for names, uses in ((list(self.endpoints), users), (list(self.models), chosen)):
            for where, name in uses:
                if name not in names:
                    raise ValueError(f"{where} names {name!r}, which is not among {', '.join(sorted(names))}")
        absent = [role.value for role in Role if role not in self.roles]
        if absent:
            raise ValueError(f"roles without a section: {', '.join(absent)}; every role needs [roles.NAME]")
        return self


def load_mind(environment: Mapping[str, str]) -> MindSettings:
    """The settings that the environment names. Raises SettingsError naming the key or variable and the fix."""
    path = environment.get("ASI_MIND_FILE")
    source = path or "the environment"
    values = _read(Path(path)) if path else _without_file(environment)
    for private in ("addresses", "keys"):
        if private in values:
            raise SettingsError(f"{source}: {private} is not a key of this file; name the variable that contains it.")
    try:
        settings = MindSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{source}: {_sentence(error)}") from None
    if problem := _no_second_attempt(settings):
        raise SettingsError(f"{source}: {problem}")
    return _with_secrets(settings, environment)


def embedder_settings(environment: Mapping[str, str]) -> MindSettings | None:
    """The settings of the endpoint that embeds; None for the local embedder. Raises SettingsError if it is unusable."""
    choice = environment.get("ASI_EMBEDDER", "")
    if choice not in ("", "local", "openai"):
        raise SettingsError(f"ASI_EMBEDDER={choice!r} is invalid: choose local or openai.")
    model, settings = environment.get("ASI_EMBEDDING_MODEL"), None
    if choice != "local" and environment.get("ASI_MIND_FILE"):
        settings = load_mind(environment)
    elif choice != "local" and model:  # which needs no mind
        settings = load_mind({**environment, "ASI_MODEL": environment.get("ASI_MODEL") or model})
    if settings is not None and settings.embedding is None:
        settings = None
    if settings is None and choice == "openai":
        raise SettingsError(
            "ASI_EMBEDDER=openai needs a model: set ASI_EMBEDDING_MODEL, or an [embedding] section in ASI_MIND_FILE."
        )
    return settings


def validate_prices(environment: Mapping[str, str], mind: bool, money: bool) -> None:
    """Raises SettingsError if a run could not use its endpoint: invalid settings, or missing prices.

    `mind`: the run's mind uses an endpoint; all runs use embedders. `money`: the run has a budget in money, which needs
    the prices of all models.
    """
    models = load_mind(environment) if mind else None
    embedding = embedder_settings(environment)
    if not money:
        return
    used = {} if models is None else {name for role in models.roles.values() for name in role.models}
    free = [f"models.{name}" for name in used if models is not None and models.models[name].price is None]
    if embedding is not None and embedding.embedding is not None and embedding.embedding.price is None:
        free.append("embedding")
    if free:
        raise SettingsError(
            f"a budget in money needs the price of every model: {', '.join(sorted(free))} has none. "
            "Write it into the file that ASI_MIND_FILE names (deploy/mind.example.toml shows how), or give --tokens."
        )


def _no_second_attempt(settings: MindSettings) -> str:
    """The problem of a role whose time limit is shorter than two attempts; empty if there is none."""
    for role, own in settings.roles.items():
        for model in own.models:
            name = settings.models[model].endpoint
            once = settings.endpoints[name].timeout_seconds
            if own.total_seconds < 2 * once:
                return (
                    f"roles.{role.value}.total_seconds is {own.total_seconds:g}, less than two requests of "
                    f"endpoints.{name}.timeout_seconds ({once:g}), so a second attempt would be cut short: "
                    f"set it to {2 * once:g} or more."
                )
    return ""


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"ASI_MIND_FILE={path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"ASI_MIND_FILE={path} is not TOML: {error}.") from None


_LONG = {Role.PROPOSE: 16384, Role.REVISE: 16384}
_WARM = {Role.PROPOSE: 1.0, Role.JUDGE_NOVELTY: 0.0, Role.REVISE: 0.2, Role.EXTRACT: 0.0}


def _without_file(environment: Mapping[str, str]) -> dict[str, object]:
    name = environment.get("ASI_MODEL")
    if not name:
        raise SettingsError("ASI_MODEL is not set: name the model to ask, or write a file and set ASI_MIND_FILE.")
    roles = {
        role: {"models": ["model"], "max_tokens": _LONG.get(role, 4096), "temperature": _WARM.get(role, 0.7)}
        for role in Role
    }
    values: dict[str, object] = {"models": {"model": {"name": name}}, "roles": roles}
    if embedding := environment.get("ASI_EMBEDDING_MODEL"):
        values["embedding"] = {"model": embedding}
    return values


def _with_secrets(settings: MindSettings, environment: Mapping[str, str]) -> MindSettings:
    """Look up addresses and keys. A key may be absent only with an explicit address."""
    addresses: dict[str, str] = {}
    keys: dict[str, SecretStr] = {}
    for name, endpoint in settings.endpoints.items():
        own = environment.get(endpoint.base_url_env)
        if not own and endpoint.base_url_env != "OPENAI_BASE_URL":
            raise SettingsError(f"{endpoint.base_url_env} is not set: it must be the address of endpoint {name}.")
        addresses[name] = own or OPENAI_URL
        key = environment.get(endpoint.api_key_env, "") if endpoint.api_key_env else ""
        if endpoint.api_key_env and not key and not own:
            raise SettingsError(f"{endpoint.api_key_env} is not set: set it, or choose the offline mind.")
        if not addresses[name].startswith(("http://", "https://")):
            raise SettingsError(f"{endpoint.base_url_env} must begin with http:// or https://.")
        keys[name] = SecretStr(key)
    return settings.model_copy(update={"addresses": addresses, "keys": keys})


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part.value if isinstance(part, Role) else part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        return f"{where} is not a setting."
    if first["type"] == "missing":
        return f"{where} is missing."
    if first["type"] in ("dict_type", "model_type"):
        return f"{where} is {first['input']!r}: write it as a section, [{where}]."
    message = first["msg"].removeprefix("Value error, ")
    return f"{where} is invalid: {message}." if where else f"{message}."
