"""A MongoDB for tests of what a deployment needs of it."""

import uuid

import pytest

from tests.mongod import Mongod


@pytest.fixture
def mongo_url(mongod: Mongod) -> str:
    """A database that does not exist yet, in a replica set of one."""
    return f"{mongod.url}/asi_{uuid.uuid4().hex}?replicaSet=rs0"
