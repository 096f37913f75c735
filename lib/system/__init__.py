"""Processes, signals, ports and environment variables of this machine.

May use: `lib.settings`, `lib.errors`, and no package that has to be installed.
"""
