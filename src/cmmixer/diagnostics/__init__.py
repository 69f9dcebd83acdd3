"""`cmmixer doctor`: what this machine has, what works and what does not, and what to do about it.

`findings` what is told, `machine` the machine, `installed` packages and programs, `material` a folder of films and an
index, `run` the command.
"""
