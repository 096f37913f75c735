"""A page for the person at this machine, where there is a screen to show it on."""

from __future__ import annotations

import os
import sys
import webbrowser


def open_in_browser(url: str) -> None:
    """Show the page in the person's browser; without a screen do nothing."""
    on_screen = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if on_screen:  # else Python would open a text browser in this very terminal
        webbrowser.open(url)
