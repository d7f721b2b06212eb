"""The archive: applies every event of the log in order, answers queries, and publishes the events that follow.

The projection is pure and the same for all backends (memory, SQLite, MongoDB); the backends write and query. The rules
of a run live in `services/domain`; what other services need to read records is in `services/archive`.
"""
