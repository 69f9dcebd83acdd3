"""The command line. Each command is one function of the Python API; its flags are the fields of its settings.

`commands` is the table of commands, `parser` turns settings into flags, `main` runs a command, `console` prints, `completion`
serves shells and editors, `torchrun` reports to torchrun. Nothing here imports torch; only the command that runs does.
"""
