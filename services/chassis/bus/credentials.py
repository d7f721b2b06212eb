"""Makes a deployment's NATS users: `python -m services.chassis.bus.credentials FOLDER`.

Writes FOLDER/.env (one secret seed per user, readable by its owner only) and FOLDER/nats.conf (the server's
configuration: public keys and rights, no secret). Existing seeds and
other lines of .env are kept; nats.conf is rewritten with the rights of this version.

A service authenticates with the seed in its settings and verifies the server by TLS (`access`).
"""

import argparse
import json
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nkeys

from services.chassis.bus.rights import INBOX, RIGHTS, inbox_of
from services.chassis.errors import SettingsError
from services.chassis.settings import ServiceSettings


@dataclass(frozen=True)
class Access:
    """The credentials of a connection."""

    seed: str | None
    inbox: str  # prefix of the inboxes: private where there is a seed
    tls: ssl.SSLContext | None  # None: plaintext, unless the server insists


def access(settings: ServiceSettings) -> Access:
    """From the settings. Raises SettingsError for a seed or certificate that cannot be used."""
    seed = _seed(settings)
    return Access(seed, INBOX if seed is None else inbox_of(public_key(seed)), _tls(settings))


def public_key(seed: str) -> str:
    """The key under which the server knows a user. Raises SettingsError if it is not a user seed."""
    try:
        return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())
    except (nkeys.ErrInvalidSeed, nkeys.ErrInvalidPrefixByte, ValueError):
        raise SettingsError("ASI_NATS_NKEY_SEED is not a user's nkey seed: begin with SU, 58 characters.") from None


def refusal(error: Exception) -> str | None:
    """Why reconnecting cannot succeed; None if it may."""
    if "authorization violation" in str(error).lower():
        return "NATS refused the credentials: set ASI_NATS_NKEY_SEED (or ASI_NATS_NKEY_FILE) to a seed of its users."
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        return f"the certificate that NATS shows is not trusted ({reason}): set ASI_NATS_CA to its authority's."
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return (
            f"no TLS connection to NATS ({error.reason}): with ASI_NATS_CA or a tls:// address the server needs "
            "`handshake_first`, and ASI_NATS_CERT and ASI_NATS_KEY where it asks for certificates."
        )
    return None


def _seed(settings: ServiceSettings) -> str | None:
    if settings.nats_nkey_seed is not None:
        return settings.nats_nkey_seed.get_secret_value().strip()
    if settings.nats_nkey_file is None:
        return None
    try:
        return settings.nats_nkey_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"ASI_NATS_NKEY_FILE={settings.nats_nkey_file} cannot be read: {error}.") from None


def _tls(settings: ServiceSettings) -> ssl.SSLContext | None:
    if settings.nats_ca is None and not settings.nats_url.startswith(("tls://", "wss://")):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca)
        if settings.nats_cert and settings.nats_key:
            context.load_cert_chain(settings.nats_cert, settings.nats_key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ASI_NATS_CA, ASI_NATS_CERT or ASI_NATS_KEY cannot be used: {error}.") from None
    return context


SERVER = """\
# Made by services.chassis.bus.credentials from services.chassis.bus.rights. It holds no secret.
# An acknowledged event must survive the machine, not only the process: hence sync_interval.
port: 4222
http: 8222
jetstream { store_dir: "/data", sync_interval: always }
"""
TLS = """\
tls {
  cert_file: "/certificates/tls.crt"
  key_file: "/certificates/tls.key"
  ca_file: "/certificates/ca.crt"
  handshake_first: "1s" # TLS from the first byte; clients that wait longer get a plain greeting that asks for TLS
}
"""


def new_seeds() -> dict[str, str]:
    """A new seed for each user."""
    return {user: nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode() for user in RIGHTS}


def authorization(seeds: Mapping[str, str]) -> str:
    """The users and their permissions, as a block of the server's configuration."""
    users = [_user(user, public_key(seed)) for user, seed in seeds.items()]
    return "authorization {\n  users: [\n" + "".join(users) + "  ]\n}\n"


def server_config(seeds: Mapping[str, str], tls: bool) -> str:
    """The whole configuration of a server for these users."""
    return SERVER + (TLS if tls else "") + authorization(seeds)


def variable(user: str) -> str:
    """The variable of the environment file that holds a user's seed, as in JUDGE_NATS_SEED."""
    return f"{user.upper()}_NATS_SEED"


def write(folder: Path, tls: bool) -> None:
    """Both files. Raises SettingsError if an existing seed is invalid."""
    known = _kept(folder / ".env")
    fresh = {user: seed for user, seed in new_seeds().items() if user not in known}
    handle = os.open(folder / ".env", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        file.writelines(f"\n{variable(user)}={seed}" for user, seed in fresh.items())
    (folder / "nats.conf").write_text(server_config({**known, **fresh}, tls), "ascii")


def _kept(path: Path) -> dict[str, str]:
    """The seeds that an environment file holds."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    given = dict(line.split("=", 1) for line in lines if "=" in line)
    return {user: given[variable(user)].strip() for user in RIGHTS if variable(user) in given}


def _user(user: str, key: str) -> str:
    rights = RIGHTS[user]
    publish, subscribe = json.dumps(rights.publish(), indent=8), json.dumps(rights.subscribe(key))
    return (
        f"    {{ # {user}\n      nkey: {key}\n      permissions: {{\n"
        f"        publish: {{ allow: {publish} }}\n        subscribe: {{ allow: {subscribe} }}\n      }}\n    }}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="credentials", description="Makes the NATS users of a deployment.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tls", action="store_true", help="the server encrypts, with /certificates/tls.crt")
    asked = parser.parse_args(arguments)
    try:
        write(asked.folder, asked.tls)
    except (SettingsError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
