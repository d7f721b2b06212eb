"""Trains candidates in the sandbox under the host's supervision. The entry point is `host.train`."""
