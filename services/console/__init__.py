"""The command line `asi-arch`.

`cli` lists the commands; options, logic and printing of each are in one file below `commands/`, and `options` and
`tables` are what they share. What they read is computed in `services/report`; services and runs are started by
`services/local`, and the live page is `services/web`.
"""
