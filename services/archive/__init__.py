"""Clients of the Archive API, shared by services: the record of an event, settings of runs, scores and lessons; and the
artifacts that records name.

The archive itself, its backends and the gRPC service are in `services/store`; nothing here opens a database.
"""
