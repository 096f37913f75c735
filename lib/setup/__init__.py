"""What has to be on the machine: Java, locked jars, class cache, checks.

May use: `system`. `machine`, `java` and `network` need no package: they run before
set-up.
"""
