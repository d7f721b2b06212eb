"""The services of the laboratory and what they share."""

import os

# Before anything imports grpc: what goes wrong there comes back as a status, the library need not print it as well.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
