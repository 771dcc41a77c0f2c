"""The commands, one module each, and the one place where the configuration file is read.

Owns: arguments, output, exit codes; rooms for what several commands share.
Comes in: a command line.
Goes out: lines, JSON, an exit code; never a traceback.
"""
