"""The command line `asi-arch`.

`cli` lists the commands; the options, logic and printing of each are in one file below `commands/`, which share
`options` and `tables`. Results are computed in `services/report`, services and runs are started by `services/local`,
and the live page is `services/web`.
"""
