"""The command line: each command is one function of the Python API, its flags are the fields of its settings.

`commands` the table, `parser` from settings to flags, `show` what people see. Nothing here imports torch: that is left to
the command that runs.
"""
