"""Settings: read once from the environment, immutable; an unknown or invalid one raises SettingsError.

A variable that is set but empty counts as unset.
"""

import difflib
import os
import re
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from services.chassis.errors import SettingsError, reason_of

PREFIX = "ASI_"
SERVICES = ("researcher", "engineer", "judge", "analyst", "store")
_SERVERS = ("archive_address", "checker_address", "cognition_address", "judge_address")  # commas between several


def _url(*schemes: str) -> AfterValidator:
    """Refuses URLs, several between commas, that begin with none of the schemes or name no host."""

    def validated(urls: str) -> str:
        for url in addresses(urls):
            if not url.startswith(schemes):
                raise ValueError(f"begin it with {' or '.join(schemes)}")
            try:
                parts = urlsplit(url)
                valid = bool(parts.hostname) and parts.port != 0
            except ValueError:  # a port beyond 65535, among others
                valid = False
            if not valid:
                raise ValueError(f"{schemes[0]} must be followed by a host, or by host:port with a port up to 65535")
        return urls

    return AfterValidator(validated)


class ServiceSettings(BaseModel):
    """Settings of all services. The field `nats_url` is read from ASI_NATS_URL, and so on.

    A service's own settings derive from this; their variables carry the service's name, as in ASI_ENGINEER_STAGE.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    nats_url: Annotated[str, _url("nats://", "tls://", "ws://", "wss://")] = Field(
        "nats://127.0.0.1:4222", description="address of NATS; of a cluster all, commas between them"
    )
    nats_nkey_seed: SecretStr | None = Field(None, description="nkey seed of this service's user; absent: no user")
    nats_nkey_file: Path | None = Field(None, description="a file that holds the seed instead")
    nats_ca: Path | None = Field(None, description="CA certificate; switches TLS on for NATS")
    nats_cert: Path | None = Field(None, description="certificate of this service, where NATS asks for one")
    nats_key: Path | None = Field(None, description="private key of nats_cert")
    grpc_ca: Path | None = Field(None, description="CA certificate; switches mutual TLS on for gRPC")
    grpc_cert: Path | None = Field(None, description="certificate of this service, for its server and its calls")
    grpc_key: Path | None = Field(None, description="private key of grpc_cert")
    nats_monitor_url: Annotated[str, _url("http://", "https://")] | None = Field(
        None, description="the broker's monitoring (`http`); of a cluster all, commas between"
    )
    require_durable_broker: bool = Field(
        False, description="refuse a broker that is too old or may lose acknowledged events, instead of warning"
    )
    data_dir: Path = Field(Path(".data"), description="folder of what this service stores")
    artifacts_url: str | None = Field(None, description="fsspec URL; default: artifacts/ below data_dir")
    archive_address: str = Field("127.0.0.1:7101", description="gRPC address of the store")
    checker_address: str = Field("127.0.0.1:7102", description="gRPC address of the engineers, commas between several")
    cognition_address: str = Field("127.0.0.1:7103", description="gRPC address of the analyst")
    judge_address: str = Field("127.0.0.1:7104", description="gRPC address of the judge")
    listen: str = Field("127.0.0.1:0", description="host:port of this service's gRPC server; port 0 takes a free one")
    metrics_listen: str | None = Field(None, description="host:port for Prometheus; absent: none")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    grace_seconds: float = Field(20.0, ge=0, description="how long a drain waits for work in hand")
    silence_seconds: float = Field(
        60.0,
        ge=2,
        description="without a heartbeat for this long a worker loses its message; equal for all services",
    )
    create_streams: bool = Field(False, description="create what `asi-arch setup` would; for one machine and tests")
    otlp_endpoint: Annotated[str, _url("http://", "https://")] | None = Field(
        None, description="OpenTelemetry collector, such as http://collector:4317; absent: no tracing"
    )

    @model_validator(mode="after")
    def _require_complete(self) -> Self:
        """Refuse incomplete TLS settings, which would fail later or leave a connection unprotected."""
        if self.nats_nkey_seed is not None and self.nats_nkey_file is not None:
            raise ValueError("ASI_NATS_NKEY_SEED and ASI_NATS_NKEY_FILE are both set; give one")
        if (self.nats_cert is None) != (self.nats_key is None):
            raise ValueError("ASI_NATS_CERT and ASI_NATS_KEY belong together; set both or none")
        if len({self.grpc_ca is None, self.grpc_cert is None, self.grpc_key is None}) > 1:
            raise ValueError("gRPC's TLS is mutual; set ASI_GRPC_CA, ASI_GRPC_CERT and ASI_GRPC_KEY, or none of them")
        given = [(name, address) for name in _SERVERS for address in addresses(getattr(self, name))]
        given += [("listen", self.listen)]
        given += [] if self.metrics_listen is None else [("metrics_listen", self.metrics_listen)]
        for name, address in given:
            try:
                host_and_port(address)
            except SettingsError as error:
                raise ValueError(f"{_variable(name, '')}: {str(error).removesuffix('.')}") from None
        return self

    @property
    def artifacts(self) -> str:
        """Where artifacts go, as an fsspec URL."""
        return self.artifacts_url or (self.data_dir / "artifacts").absolute().as_uri()


S = TypeVar("S", bound=ServiceSettings)

# Variables of minds and embedders, which parse them themselves.
MIND_NAMES = frozenset({"ASI_MIND_FILE", "ASI_MODEL", "ASI_EMBEDDER", "ASI_EMBEDDING_MODEL", "ASI_ARCHIVE_URL"})


def load(kind: type[S], service: str, environment: Mapping[str, str] | None = None) -> S:
    """Read `kind` from the environment. Raises SettingsError naming an unknown or invalid ASI_ variable and the fix."""
    environment = os.environ if environment is None else environment
    names = {_variable(field, service): field for field in kind.model_fields}
    others = tuple(f"{PREFIX}{name.upper()}_" for name in SERVICES if name != service)
    values: dict[str, str] = {}
    for name, value in environment.items():
        if not value.strip():
            continue
        if name in names:
            values[names[name]] = value
        elif name.startswith(PREFIX) and not name.startswith(others) and name not in MIND_NAMES:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else f" (known: {', '.join(sorted(names))})."
            raise SettingsError(f"{name} is not a setting of the {service}{hint}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        if field not in kind.model_fields:
            raise SettingsError(f"{reason}.") from None
        raise SettingsError(f"{_variable(field, service)}={values.get(field, '')!r} is invalid: {reason}.") from None


def described(kind: type[ServiceSettings], service: str) -> str:
    """The variables of a service with their meaning and default, those of its own first."""
    lines = []
    for name, field in sorted(kind.model_fields.items(), key=lambda item: item[0] in ServiceSettings.model_fields):
        default = "" if field.default is None else f" [{field.default}]"
        lines += [
            _variable(name, service),
            *textwrap.wrap(f"    {field.description}{default}", 100, subsequent_indent=" " * 4),
        ]
    return "\n".join(lines)


def _variable(field: str, service: str) -> str:
    """The environment variable of a field; a service's own fields carry its name."""
    shared = field in ServiceSettings.model_fields or f"{PREFIX}{field.upper()}" in MIND_NAMES
    return f"{PREFIX}{field.upper()}" if shared else f"{PREFIX}{service.upper()}_{field.upper()}"


def require_writable(variable: str, folder: Path) -> None:
    """Create the folder that a setting names, if it is missing. Raises SettingsError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # a null character in the name
        raise SettingsError(f"{variable}={folder} cannot be written: {reason_of(error)}.") from None


def refuse_pass_phrase(variable: str) -> str:
    """For ssl, instead of OpenSSL's question in the terminal, where a service would wait. Raises SettingsError."""
    raise SettingsError(f"{variable} is encrypted: name a private key without a pass phrase.")


def without_user(urls: str) -> str:
    """URLs without the names and passwords of users, for logs and errors."""
    return re.sub(r"(?<=://)[^/]*@", "", urls)


def addresses(text: str) -> list[str]:
    """The comma-separated addresses in a setting; the text itself, which is none, if there are none."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of an address such as 127.0.0.1:7101. Raises SettingsError if it is not host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise SettingsError(f"{address!r} is not an address; write host:port, for example 127.0.0.1:7101.")
    return host, int(port)
