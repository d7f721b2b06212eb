"""Artifacts: what does not fit an event (prompts, logs, checkpoints), named by its SHA-256."""

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from services.chassis.errors import SettingsError
from services.chassis.settings import ServiceSettings, require_writable
from services.contracts import candidate_pb2 as pb


class ArtifactDamaged(Exception):  # noqa: N818
    """The bytes of an artifact do not match its SHA-256."""


def require_artifacts(settings: ServiceSettings) -> None:
    """Raises SettingsError if ASI_ARTIFACTS_URL cannot be opened or is a folder that cannot be written."""
    folder = FsspecArtifacts(settings.artifacts).folder
    if settings.artifacts_url and folder is not None:  # by default it is created when there is something to store
        require_writable("ASI_ARTIFACTS_URL", folder)


class FsspecArtifacts:
    """Content-addressed storage below one fsspec URL: a folder here, S3 there."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet. Raises SettingsError for an unknown protocol, or one that is not installed."""
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"ASI_ARTIFACTS_URL={url!r} cannot be opened: {str(error).removesuffix('.')}; write file:///FOLDER or "
                "s3://BUCKET/FOLDER."
            ) from None

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for another place."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    async def put(self, content: bytes, kind: str) -> pb.Artifact:
        """Store the content, durably when this returns; the same content is stored once."""
        digest = hashlib.sha256(content).hexdigest()
        path = f"{kind}/{digest[:2]}/{digest}"
        await asyncio.to_thread(self._write, f"{self._root}/{path}", content)
        return pb.Artifact(sha256=digest, path=path, bytes=len(content))

    async def get(self, artifact: pb.Artifact) -> bytes:
        """Raises FileNotFoundError when absent and ArtifactDamaged when the bytes do not match the name."""
        content: bytes = await asyncio.to_thread(self._fs.cat_file, f"{self._root}/{artifact.path}")
        if hashlib.sha256(content).hexdigest() != artifact.sha256:
            raise ArtifactDamaged(f"{artifact.path} was changed after it was written")
        return content

    def _write(self, path: str, content: bytes) -> None:
        """Write atomically: object stores do so themselves, in a folder the file is renamed into place."""
        if self._fs.exists(path):
            return
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(path, content)
            return
        with tempfile.NamedTemporaryFile(dir=Path(path).parent, prefix=".", delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
