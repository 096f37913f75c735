"""Entry of ``python -m lib COMMAND``."""

from lib.stop import Stop, run


def _command(stop: Stop) -> int:
    from lib.cli import main  # when signals are taken already

    return main(stop)


run(_command)
