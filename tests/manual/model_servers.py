"""Real chat servers as child processes: started, waited for, ended by their process group.

Owns: how each server is started and when it is ready. Must not know: what is asked of it. A server listens on loopback
only, runs on one thread so that it can share a small machine, and is ended whatever happens.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 400.0
VLLM_FLAGS = ("--served-model-name", "smollm2", "--enforce-eager", "--max-model-len", "2048")
VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServer:
    """`command` starts it, with "PORT" where the port goes; `model` is what requests call its model."""

    name: str
    model: str
    command: tuple[str, ...]
    versions: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def llama_cpp(gguf: Path, *, slots: int) -> ModelServer:
    """llama.cpp's own HTTP server, out of the package xllamacpp."""
    command = (sys.executable, "-m", "tests.manual.model_servers", str(gguf), "PORT", str(slots))
    return ModelServer(
        name="llama_cpp", model="smollm2", command=command, versions=_versions(sys.executable, "xllamacpp")
    )


def vllm(python: str, weights: Path) -> ModelServer:
    """vLLM on the CPU, in an environment of its own (the distribution vllm-cpu has no working `vllm serve`)."""
    command = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(weights), *VLLM_FLAGS)
    command += ("--host", "127.0.0.1", "--port", "PORT")
    return ModelServer(
        name="vllm", model="smollm2", command=command, environment=VLLM_ENVIRONMENT, versions=vllm_versions(python)
    )


def vllm_run_batch(python: str, weights: Path, requests: Path, results: Path, log: Path) -> None:
    """vLLM's own batch runner over a file in OpenAI's batch form. Errors: CalledProcessError; the log says why."""
    command = [python, "-m", "vllm.entrypoints.openai.run_batch", "--model", str(weights), *VLLM_FLAGS]
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(
            [*command, "-i", str(requests), "-o", str(results)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **VLLM_ENVIRONMENT},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=True,
        )


def vllm_versions(python: str) -> dict[str, str]:
    """What of vLLM runs in another interpreter's environment."""
    return _versions(python, "vllm-cpu", "transformers", "torch")


def transformers_serve(python: str, weights: Path) -> ModelServer:
    """`transformers serve`: the peer that takes a JSON schema and ignores it. Its models are named by their path."""
    program = str(Path(python).with_name("transformers"))
    command = (program, "serve", "--host", "127.0.0.1", "--port", "PORT", "--device", "cpu")
    versions = _versions(python, "transformers", "torch")
    return ModelServer(
        name="transformers_serve",
        model=str(weights),
        command=command,
        environment={"HF_HUB_OFFLINE": "1"},
        versions=versions,
    )


def lab_rules(*, noise: float) -> ModelServer:
    """The lab's rule critic behind the same protocol, lying with probability `noise`."""
    command = (sys.executable, "-m", "critique_rl.cli.main", "lab", "serve", "--port", "PORT", "--noise", str(noise))
    return ModelServer(name=f"lab_rules_noise_{noise:g}", model="lab-rules", command=command, versions={})


@contextmanager
def running(server: ModelServer, log: Path) -> Iterator[str]:
    """Its base_url, once it answers /health with 200. Errors: RuntimeError with the end of its log."""
    port = _free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **server.environment}
    command = [part.replace("PORT", str(port)) for part in server.command]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text(encoding='utf-8')[-2000:]}")
        # llama.cpp answers 503 while the model is still being loaded
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
            if reply.status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the server was not ready within {READY_WITHIN_S:.0f} s: {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _versions(python: str, *names: str) -> dict[str, str]:
    """Versions of packages in the environment of another interpreter."""
    code = "import sys, importlib.metadata as m; print(*[m.version(n) for n in sys.argv[1:]])"
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def _serve_llama_cpp(gguf: str, port: int, slots: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = slots, 2048 * slots  # the context is shared out among the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    _serve_llama_cpp(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
