"""Write deploy/.env with fresh secrets, readable by its owner only: `python3 deploy/make_env.py`."""

import os
import secrets
import sys
from pathlib import Path


def write(path: Path) -> None:
    """Raises FileExistsError: secrets in use are not replaced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(f"NATS_PASSWORD=p{secrets.token_hex(24)}\n")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / ".env"
    try:
        write(target)
    except FileExistsError:
        sys.exit(f"{target} exists already: delete it for new secrets.")
