"""The commands, and what they start: the demo, the local cluster, the doctor.

May use: every package.
"""
