"""The command line `asi-arch`, the runner of a whole laboratory on one machine, reports and the web page.

`cli` lists the commands; their options, logic and printing are below `commands/`. `tables` renders for all of them,
`archive` and `log` reach the archive and the event log, `system` and `processes` start services as child processes.
No rule of a run lives here: those are in `services/domain`, and every number comes from the archive.
"""
