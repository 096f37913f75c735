"""Something to look at while the first set-up goes on: a recorded run of the demo.

    python -m lib.setup.recorded_run

`make demo` calls it before set-up, so it needs no package.
"""

from __future__ import annotations

import sys

from lib.settings import ROOT
from lib.system.desktop import open_in_browser

PAGE = ROOT / "docs" / "demo.html"


def main() -> None:
    """Say where the recorded run is, and open it where there is a screen."""
    url = PAGE.resolve().as_uri()
    print(
        f"set-up comes first, two minutes or so; meanwhile, a recorded run: {url}",
        file=sys.stderr,
    )
    open_in_browser(url)


if __name__ == "__main__":
    main()
