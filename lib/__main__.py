"""Entry of ``python -m lib COMMAND``."""

from lib.system.signals import Stop, run


def _command(stop: Stop) -> int:
    from lib.cli.commands import main  # when signals are taken already

    return main(stop)


run(_command)
