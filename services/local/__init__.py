"""All services on one machine: their processes and broker, and the way of a run from its settings to its end.

`settings` finds the system of a data folder, `archive` and `log` connect to its archive and event log or to others,
`plan` and `estimate` derive a run's settings, `system` and `launch` start services and runs. Nothing here parses a
command line or prints results (`services/console`); the rules of a run are in `services/domain`.
"""
