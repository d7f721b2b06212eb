"""The live page: an HTTP server with the page's files, JSON of a run's records, and its changes as server-sent events.

`app` has the routes, `live` follows archive and log, `table` holds a run's rows. It only reads, and computes no result:
those come from the archive and `services/report`. The page's sources are in `web/`; `static/` is what they compile to.
"""
