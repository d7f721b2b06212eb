"""Make a single mongod the only member of its replica set: `python mongo_init.py HOST:PORT [OPTIONS]`. Idempotent.

OPTIONS are those of a MongoDB URL, such as tls=true&tlsCAFile=/certificates/ca.crt.
"""

import sys

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

ALREADY = 23


def initiate(address: str, options: str = "") -> None:
    """Raises PyMongoError if the server is unreachable."""
    client: MongoClient[dict[str, object]] = MongoClient(
        f"mongodb://{address}/?{options}", directConnection=True, serverSelectionTimeoutMS=20_000
    )
    try:
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": address}]})
    except OperationFailure as error:
        if error.code != ALREADY:
            raise
    finally:
        client.close()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: mongo_init.py HOST:PORT [OPTIONS]")
    try:
        initiate(*sys.argv[1:])
    except PyMongoError as error:
        sys.exit(f"no replica set yet: {error}")
