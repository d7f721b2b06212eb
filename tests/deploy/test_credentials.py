"""The files of a new deployment, and what an upgrade preserves."""

import re
from pathlib import Path

import pytest

from deploy.make_env import write
from services.chassis.bus.access import USERS, public_key, seed_variable
from services.chassis.errors import SettingsError


def seeds(folder: Path) -> dict[str, str]:
    """What the environment file says."""
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if line)


def test_every_user_gets_a_secret_and_the_server_only_public_keys(tmp_path: Path) -> None:
    """The configuration may be read by anybody, the seeds by their owner."""
    write(tmp_path, tls=False)
    config = (tmp_path / "nats.conf").read_text()

    assert seeds(tmp_path).keys() == {seed_variable(user) for user in USERS}
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert set(re.findall(r"nkey: (\w+)", config)) == {public_key(seed) for seed in seeds(tmp_path).values()}
    assert not [seed for seed in seeds(tmp_path).values() if seed in config]


def test_a_second_call_keeps_seeds_and_updates_rights(tmp_path: Path) -> None:
    """An upgrade adds facts and users; it must not lock out what runs."""
    write(tmp_path, tls=False)
    before, path = seeds(tmp_path), tmp_path / ".env"
    path.write_text("IMAGE_TAG=v2" + "".join(f"\n{name}={seed}" for name, seed in before.items() if name[0] != "J"))
    (tmp_path / "nats.conf").write_text("an older version's")
    write(tmp_path, tls=True)
    after = seeds(tmp_path)

    assert after.pop("IMAGE_TAG") == "v2"
    assert after.pop(seed_variable("judge")) != before.pop(seed_variable("judge"))
    assert after == before
    assert "candidate.judged" in (tmp_path / "nats.conf").read_text()
    assert "handshake_first" in (tmp_path / "nats.conf").read_text()


def test_an_invalid_seed_is_refused_with_one_message(tmp_path: Path) -> None:
    """Not a server that refuses everybody."""
    (tmp_path / ".env").write_text(f"{seed_variable('judge')}=changeme\n")

    with pytest.raises(SettingsError, match="nkey seed"):
        write(tmp_path, tls=False)
