"""Users of the message bus and their credentials; `deploy/make_env.py` has their rights.

A service authenticates with the nkey seed in its settings and verifies the server by TLS.
"""

import ssl
from functools import partial
from typing import Any

import nkeys

from services.chassis.errors import SettingsError, reason_of
from services.chassis.settings import SERVICES, ServiceSettings, refuse_pass_phrase

API = "$JS.API"
INBOX = "_INBOX"
DATES = frozenset({9, 10})  # OpenSSL's codes of certificates that are not yet valid, or expired
ADMINISTRATOR = "admin"
USERS = (*SERVICES, "console", ADMINISTRATOR)
"""The users of the server. The administrator sets up and imports whole logs; no service runs as it."""


def inbox_of(public_key: str) -> str:
    """The prefix of a user's inboxes, derived from its public key for clients and the server's configuration."""
    return f"{INBOX}.{public_key}"


def connect_options(settings: ServiceSettings) -> dict[str, Any]:
    """User and encryption, as arguments of nats-py's `connect`. Raises SettingsError for an invalid key or file."""
    seed, tls = _seed(settings), _tls(settings)
    inbox = INBOX if seed is None else inbox_of(public_key(seed))
    return {
        "nkeys_seed_str": seed,
        "inbox_prefix": inbox.encode(),
        "tls": tls,
        "tls_handshake_first": tls is not None,  # a forged plain-text greeting could ask for no TLS
    }


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
        if error.verify_code in DATES:
            return f"the certificate that NATS shows is refused ({reason}): is this machine's clock right?"
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
        raise SettingsError(
            f"ASI_NATS_NKEY_FILE={settings.nats_nkey_file} cannot be read: {reason_of(error)}."
        ) from None


def _tls(settings: ServiceSettings) -> ssl.SSLContext | None:
    if settings.nats_ca is None and not settings.nats_url.startswith(("tls://", "wss://")):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca)
        if settings.nats_cert and settings.nats_key:
            context.load_cert_chain(settings.nats_cert, settings.nats_key, partial(refuse_pass_phrase, "ASI_NATS_KEY"))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ASI_NATS_CA, ASI_NATS_CERT or ASI_NATS_KEY cannot be used: {error}.") from None
    return context


def seed_variable(user: str) -> str:
    """The variable of a deployment's environment file that holds a user's seed, such as JUDGE_NATS_SEED."""
    return f"{user.upper()}_NATS_SEED"
