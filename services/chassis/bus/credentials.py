"""Makes a deployment's NATS users: `python -m services.chassis.bus.credentials FOLDER`.

Writes FOLDER/.env (one secret seed per user, readable by its owner only) and FOLDER/nats.conf (the server's
configuration: public keys and rights, no secret). Existing files are kept: seeds in use are not replaced.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nkeys

from services.chassis.bus.access import public_key
from services.chassis.bus.rights import RIGHTS

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
  handshake_first: auto # encrypted from the first byte; who waits for a greeting gets one that asks for TLS
}
"""


def new_seeds() -> dict[str, str]:
    """A fresh secret for every user of the table."""
    return {user: nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode() for user in RIGHTS}


def authorization(seeds: Mapping[str, str]) -> str:
    """The server's users and what each may do, as a block of its configuration."""
    users = [_user(user, public_key(seed)) for user, seed in seeds.items()]
    return "authorization {\n  users: [\n" + "".join(users) + "  ]\n}\n"


def server_config(seeds: Mapping[str, str], tls: bool) -> str:
    """The whole configuration of a server for these users."""
    return SERVER + (TLS if tls else "") + authorization(seeds)


def variable(user: str) -> str:
    """The variable of the environment file that holds a user's seed, as in JUDGE_NATS_SEED."""
    return f"{user.upper()}_NATS_SEED"


def write(folder: Path, tls: bool) -> None:
    """Both files. Raises FileExistsError where there is one already."""
    seeds = new_seeds()
    handle = os.open(folder / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.writelines(f"{variable(user)}={seed}\n" for user, seed in seeds.items())
    with (folder / "nats.conf").open("x", encoding="ascii") as file:
        file.write(server_config(seeds, tls))


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
    except FileExistsError as error:
        sys.exit(f"{error.filename} exists already: delete .env and nats.conf for new secrets.")


if __name__ == "__main__":
    main()
