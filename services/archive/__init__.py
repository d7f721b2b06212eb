"""What several services need of the Archive API: the record behind an event, a run's settings, scores and lessons.

Everything here reads messages that the Archive service returns, or asks it over gRPC. The archive itself, its backends
and the service that answers live in `services/store`; nothing here opens a database.
"""
