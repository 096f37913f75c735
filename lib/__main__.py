"""Entry of ``python -m lib COMMAND``."""

import sys

from lib.cli import main

sys.exit(main())
