"""Encryption by settings: NATS, mutual gRPC, MongoDB; unencrypted connections are refused."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.make_env import TLS
from deploy.mongo_init import initiate
from services.chassis.bus import Bus
from services.chassis.bus.access import ADMINISTRATOR, connect_options, refusal
from services.chassis.errors import SettingsError
from services.chassis.rpc import Server, channel, is_transient, key_files
from services.chassis.settings import ServiceSettings, load
from services.local.processes import free_port
from services.store.backends import open_archive
from services.store.port import ArchiveUnavailable
from tests.chassis.nats_server import NatsServer
from tests.mongod import mongod_binary

MAKE = Path(__file__).parents[2] / "deploy" / "make_certificates.sh"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of one authority, and below `other` those of a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run([MAKE, folder, "nats", "mongo", "store", "judge"], check=True)
    subprocess.run([MAKE, folder / "other", "judge"], check=True)
    return folder


@pytest.fixture(scope="module")
def encrypted(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with the TLS block that a deployment gets."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), TLS.replace("/certificates", str(certificates / "nats")))
    server.start()
    yield server
    server.stop()


def grpc_tls(folder: Path) -> dict[str, object]:
    """The three settings that switch it on."""
    return {"grpc_ca": folder / "ca.crt", "grpc_cert": folder / "tls.crt", "grpc_key": folder / "tls.key"}


async def ask(settings: ServiceSettings, port: int) -> int:
    """The health of a server, as a neighbour asks for it."""
    async with channel(f"localhost:{port}", settings) as connection:
        check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
        answer = await check(health_pb2.HealthCheckRequest(), timeout=1.5, wait_for_ready=False)
    status: int = answer.status
    return status


async def test_a_service_that_knows_the_authority_works_over_tls(encrypted: NatsServer, certificates: Path) -> None:
    """The setting is the file of the authority's certificate, nothing else."""
    async with Bus(encrypted.settings(ADMINISTRATOR, nats_ca=certificates / "nats" / "ca.crt"), "admin") as bus:
        await bus.set_up()
        assert await bus.compare() == []


async def test_a_service_without_the_authority_names_the_missing_setting(
    encrypted: NatsServer, certificates: Path
) -> None:
    """With no authority, or with a stranger's, the start ends with one sentence."""
    for more in ({}, {"nats_ca": certificates / "other" / "judge" / "ca.crt"}):
        with pytest.raises(SettingsError, match="ASI_NATS_CA"):
            async with Bus(encrypted.settings("judge", **more), "judge"):
                pass


def test_a_certificate_outside_its_dates_asks_for_the_clock() -> None:
    """Another authority would not help a machine whose clock is wrong."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"

    assert (refusal(error) or "").endswith("refused (certificate is not yet valid): is this machine's clock right?")


def test_a_plaintext_client_is_turned_away_by_the_broker(encrypted: NatsServer) -> None:
    """It greets, as clients do, and is never answered."""
    with socket.create_connection(("127.0.0.1", encrypted.port), timeout=5) as client:
        greeting = client.recv(4096)
        client.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        answer = client.recv(4096)

    assert b'"tls_required":true' in greeting
    assert b"PONG" not in answer


async def test_a_broker_without_tls_is_refused(certificates: Path, nats_url: str) -> None:
    """A forged greeting must not disable required encryption."""
    settings = ServiceSettings(nats_url=nats_url, nats_ca=certificates / "nats" / "ca.crt")
    with pytest.raises(SettingsError, match="no TLS connection"):
        async with Bus(settings, "judge"):
            pass


async def test_a_broker_may_ask_for_certificates_too(certificates: Path, tmp_path: Path) -> None:
    """`verify` in the server's TLS block; a service then shows its own."""
    block = TLS.replace("/certificates", str(certificates / "nats")).replace(
        "handshake_first", "verify: true\n  handshake_first"
    )
    server = NatsServer(tmp_path / "nats", block)
    server.start()
    try:
        ca, own = certificates / "nats" / "ca.crt", certificates / "judge"
        shown = server.settings("judge", nats_ca=ca, nats_cert=own / "tls.crt", nats_key=own / "tls.key")
        async with Bus(shown, "judge") as bus:
            assert bus.connected
        with pytest.raises(SettingsError, match="ASI_NATS_CERT"):
            async with asyncio.timeout(10), Bus(server.settings("judge", nats_ca=ca), "judge"):
                pass
    finally:
        server.stop()


@pytest_asyncio.fixture
async def guarded_port(certificates: Path) -> AsyncIterator[int]:
    """The port of the store's server, which speaks mutual TLS."""
    server = Server(ServiceSettings.model_validate(grpc_tls(certificates / "store")))
    await server.start()
    await server.report(healthy=True)
    yield server.port
    await server.stop(0)


async def test_two_services_authenticate_with_certificates(certificates: Path, guarded_port: int) -> None:
    """Each shows its own; both were signed by the deployment's authority."""
    judge = ServiceSettings.model_validate(grpc_tls(certificates / "judge"))

    assert await ask(judge, guarded_port) == health_pb2.HealthCheckResponse.SERVING


async def test_of_several_servers_each_shows_its_own_certificate(certificates: Path, guarded_port: int) -> None:
    """Engineers on several machines have certificates for different hosts."""
    judge = ServiceSettings.model_validate(grpc_tls(certificates / "judge"))
    async with channel(f"localhost:{guarded_port},127.0.0.1:{guarded_port}", judge) as connection:
        check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
        answers = [await check(health_pb2.HealthCheckRequest(), timeout=5) for _ in range(2)]

    assert [answer.status for answer in answers] == [health_pb2.HealthCheckResponse.SERVING] * 2


async def test_a_grpc_client_without_a_certificate_of_the_authority_is_refused(
    certificates: Path, guarded_port: int
) -> None:
    """Plaintext, a stranger's certificate, and encryption without any certificate."""
    stranger = grpc_tls(certificates / "other" / "judge") | {"grpc_ca": certificates / "judge" / "ca.crt"}
    for settings in (ServiceSettings(), ServiceSettings.model_validate(stranger)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(settings, guarded_port)
        assert is_transient(refused.value), "to the client it looks as if nobody were there"
    one_sided = grpc.ssl_channel_credentials((certificates / "judge" / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{guarded_port}", one_sided) as connection:
        check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
        with pytest.raises(grpc.aio.AioRpcError):
            await check(health_pb2.HealthCheckRequest(), timeout=3)


def test_half_of_a_key_pair_is_refused_with_a_message() -> None:
    """An authority without a certificate would leave the server open or fail at the first call."""
    for environment, named in (({"ASI_GRPC_CA": "ca.crt"}, "ASI_GRPC_CERT"), ({"ASI_NATS_CERT": "a"}, "ASI_NATS_KEY")):
        with pytest.raises(SettingsError, match=named):
            load(ServiceSettings, "judge", environment)


def test_a_key_with_a_pass_phrase_is_refused_with_a_message(certificates: Path, tmp_path: Path) -> None:
    """OpenSSL would ask for the phrase in the terminal, and the service would wait."""
    own, key = certificates / "judge", tmp_path / "encrypted.key"
    encrypt = f"openssl pkey -in {own / 'tls.key'} -aes256 -passout pass:phrase -out {key}"
    subprocess.run(encrypt.split(), check=True)
    tls = {"ca": own / "ca.crt", "cert": own / "tls.crt", "key": key}
    for part, read in (("grpc", key_files), ("nats", connect_options)):
        settings = ServiceSettings.model_validate({f"{part}_{name}": path for name, path in tls.items()})
        with pytest.raises(SettingsError, match=f"ASI_{part.upper()}_KEY is encrypted"):
            read(settings)


@pytest.fixture
def encrypted_mongo(certificates: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a replica set of one that takes encrypted connections only."""
    binary = mongod_binary()
    own, port = certificates / "mongo", free_port()
    server = subprocess.Popen(
        [binary, "--dbpath", tmp_path, "--port", str(port), "--replSet", "rs0", "--logpath", tmp_path / "log",
         "--tlsMode", "requireTLS", "--tlsCertificateKeyFile", own / "tls.pem", "--tlsCAFile", own / "ca.crt"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.mark.mongo
@pytest.mark.slow
async def test_the_archive_reaches_mongodb_over_tls_only(certificates: Path, encrypted_mongo: str) -> None:
    """The options are MongoDB's own, in the archive's URL; the step that makes the replica set takes them too."""
    own = certificates / "store"
    options = f"tls=true&tlsCAFile={own / 'ca.crt'}&tlsCertificateKeyFile={own / 'tls.pem'}"
    initiate(encrypted_mongo, options)
    archive = open_archive(f"mongodb://{encrypted_mongo}/asi?replicaSet=rs0&{options}")
    await archive.open()
    assert await archive.healthy()
    await archive.close()
    plain = open_archive(f"mongodb://{encrypted_mongo}/asi?replicaSet=rs0")
    with pytest.raises(ArchiveUnavailable):
        await plain.open()
    await plain.close()
