"""What speaks the Archive API on behalf of several services: the gRPC client and what reads the records it returns.

The archive itself, its backends and the service that answers live in `services/store`; nothing here opens a database.
"""
