"""Streamlit in a process of its own, which ends with the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from lib.errors import FraudError
from lib.settings import DASHBOARD_PORT, Settings
from lib.system.loopback import free_ports, is_free, open_url

HOST = "127.0.0.1"
READY_SECONDS = 60
STOP_SECONDS = 10
# One arena and few threads: the page reads small files, and memory is what it may not
# take from the stream beside it.
_FRUGAL = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "ARROW_IO_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
}
_PAGE = Path(__file__).with_name("page.py")


class Dashboard:
    """The running page.

    Attributes:
        url: where it is.
        pid: its process.
    """

    def __init__(
        self,
        settings: Settings,
        port: int | None = None,
        *,
        or_any_port: bool = False,
        page: Path = _PAGE,
    ) -> None:
        """The page of one pipeline; `start` starts it.

        Args:
            settings: of the pipeline.
            port: None means DASHBOARD_PORT, 0 any that is free.
            or_any_port: if nobody asked for a port and that one is taken, use another.
            page: the Streamlit script, which finds the settings in its environment.
        """
        self.settings = settings
        self._page = page
        if port is None and or_any_port and not is_free(DASHBOARD_PORT):
            port = 0
        self._port = free_ports(1)[0] if port == 0 else (port or DASHBOARD_PORT)
        self.url = f"http://{HOST}:{self._port}"
        self._process: subprocess.Popen | None = None
        self._log = settings.log_dir / "dashboard.log"

    def start(self) -> Dashboard:
        """Start it; returns when it answers.

        Raises:
            FraudError: the port is taken, or the page does not start.
        """
        self.launch()
        try:
            return self.wait()
        except BaseException:  # Ctrl-C, say
            self.stop()
            raise

    def launch(self) -> None:
        """Start it; `wait` tells when it answers.

        Raises:
            FraudError: the port is taken.
        """
        if not is_free(self._port):
            raise FraudError(
                f"port {self._port} is taken: end what runs there, or choose another "
                "with --port"
            )
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lib.dashboard.serve", str(self._port)),
                    str(self._page),
                    str(self.settings.home),  # for those who look at `ps`
                ],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                cwd=Path(__file__).resolve().parents[2],
                env=os.environ | _FRUGAL | self.settings.as_env(),
                start_new_session=True,  # Ctrl-C reaches us, and we end it
            )

    def wait(self) -> Dashboard:
        """Return when it answers.

        Raises:
            FraudError: the page does not start.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if not self.alive() or time.monotonic() > deadline:
                self.stop()
                raise FraudError(f"the dashboard does not start: see {self._log}")
            time.sleep(0.1)
        return self

    @property
    def pid(self) -> int:
        """Process id of the page."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Dashboard:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with open_url(f"{self.url}/_stcore/health", timeout=2) as got:
                return got.status == 200
        except OSError:
            return False


def _end_with_parent() -> None:
    """Ends this process when the other end of stdin is gone, however it went."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)  # nothing here is written: there is nothing to be lost

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(port: str, page: str) -> None:
    """Run the page, a Streamlit script, in this process."""
    _end_with_parent()
    from streamlit.web import cli  # seconds, in which the parent may end

    options = {
        "server.port": port,
        "server.address": HOST,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": "false",
        # A full collection after every fragment took half of the page's time. What it
        # guards against, memory that grows, bench/dashboard.py measures.
        "runner.postScriptGC": "false",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    sys.argv = ["streamlit", "run", page, *flags]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
