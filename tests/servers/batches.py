"""A loopback server with the files and batches endpoints, scripted to misbehave; it counts what it was made to do."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers.scripted_chat import chat_completion

Json = dict[str, object]


@dataclass
class Script:
    """How the server behaves. `polls`: retrievals before a batch ends; `end`: how. `leave_out`: of so many custom_ids
    (in the file's order, from the end) an expired or cancelled batch says nothing. `error_status`: by custom_id."""

    polls: int = 1
    end: str = "completed"
    leave_out: int = 0
    expired_lines_in_error_file: bool = False
    shuffle: bool = True
    duplicate_output: int = 0
    unknown_output: int = 0
    torn_line: bool = False
    error_status: Mapping[str, int] = field(default_factory=dict)
    failing_uploads: int = 0
    limited_submits: int = 0
    refused_submits: int = 0
    drop_after_create: int = 0
    drop_before_create: int = 0
    fail_reason: str = "the file is bad"
    fail_code: str = "invalid_file"


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class BatchServer:
    """`answered[custom_id]` counts the answers billed for a line, `submissions[sha256 of file]` a file's batches."""

    def __init__(self, answer: Callable[[Json], Json] | None = None) -> None:
        self.script = Script()
        self.answer = answer or (lambda _body: chat_completion())
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self.submissions: dict[str, int] = {}
        self.answered: dict[str, int] = {}
        self.metadata: list[object] = []
        self.keys: list[str] = []
        self.chat_calls = 0
        self._polls: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, name: str) -> bool:
        """Use up one of the script's counted faults."""
        left: int = getattr(self.script, name)
        setattr(self.script, name, max(0, left - 1))
        return left > 0

    def add_file(self, content: bytes) -> Json:
        with self._lock:
            file_id = f"file-{len(self.files) + 1}"
            self.files[file_id] = content
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1,
            "filename": "x",
            "purpose": "batch",
        }

    def create(self, body: Json) -> Json:
        file_id = str(body["input_file_id"])
        digest = hashlib.sha256(self.files[file_id]).hexdigest()
        with self._lock:
            self.submissions[digest] = self.submissions.get(digest, 0) + 1
            self.metadata.append(body.get("metadata"))
            batch_id = f"batch-{len(self.batches) + 1}"
            batch: Json = {
                "id": batch_id,
                "object": "batch",
                "endpoint": body["endpoint"],
                "input_file_id": file_id,
                "completion_window": body["completion_window"],
                "status": "validating",
                "created_at": len(self.batches) + 1,
                "metadata": body.get("metadata"),
                "request_counts": {"total": self.files[file_id].count(b"\n"), "completed": 0, "failed": 0},
            }
            self.batches[batch_id] = batch
        return batch

    def retrieve(self, batch_id: str) -> Json:
        batch = self.batches[batch_id]
        with self._lock:
            polls = self._polls[batch_id] = self._polls.get(batch_id, 0) + 1
            if batch["status"] == "cancelling":
                self._end(batch, "cancelled")
            elif batch["status"] in ("validating", "in_progress"):
                if polls >= self.script.polls:
                    self._end(batch, self.script.end)
                else:
                    batch["status"] = "in_progress"
        return batch

    def cancel(self, batch_id: str) -> Json:
        batch = self.batches[batch_id]
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "cancelling"
        return batch

    def listed(self, after: str | None, limit: int) -> Json:
        newest = list(reversed(self.batches.values()))
        ids = [str(batch["id"]) for batch in newest]
        start = ids.index(after) + 1 if after else 0
        page = newest[start : start + min(limit, 2)]  # small pages, so that clients have to turn them
        return {"object": "list", "data": page, "has_more": start + len(page) < len(newest)}

    def _end(self, batch: Json, status: str) -> None:
        batch["status"] = status
        if status == "failed":
            error = {"code": self.script.fail_code, "message": self.script.fail_reason, "line": 1, "param": None}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        lines = [json.loads(line) for line in self.files[str(batch["input_file_id"])].splitlines()]
        done = (
            lines[: max(0, len(lines) - self.script.leave_out)]
            if status != "completed" or self.script.leave_out
            else lines
        )
        output, errors = self._run(done)
        if self.script.expired_lines_in_error_file:
            expired = {"code": "batch_expired", "message": "This request could not be executed before expiry."}
            errors += [
                {"id": "e", "custom_id": line["custom_id"], "response": None, "error": expired}
                for line in lines[len(done) :]
            ]
        if output:
            batch["output_file_id"] = self._result_file(output, torn=self.script.torn_line)
        if errors:
            batch["error_file_id"] = self._result_file(errors)
        batch["request_counts"] = {"total": len(lines), "completed": len(output), "failed": len(errors)}

    def _run(self, lines: list[Json]) -> tuple[list[Json], list[Json]]:
        output: list[Json] = []
        errors: list[Json] = []
        for line in lines:
            custom_id, status = str(line["custom_id"]), self.script.error_status.get(str(line["custom_id"]), 200)
            body = self.answer(line["body"]) if status == 200 else {"error": {"message": "no", "code": None}}  # type: ignore[arg-type]
            response = {"status_code": status, "request_id": "q", "body": body}
            (output if status == 200 else errors).append(
                {"id": "b", "custom_id": custom_id, "response": response, "error": None}
            )
            if status == 200:
                self.answered[custom_id] = self.answered.get(custom_id, 0) + 1
        if self.script.shuffle:
            random.Random(0).shuffle(output)
        stranger = {"id": "b", "response": {"status_code": 200, "body": chat_completion()}, "error": None}
        output += [{**stranger, "custom_id": f"unknown-{number}"} for number in range(self.script.unknown_output)]
        output += output[: self.script.duplicate_output]
        return output, errors

    def _result_file(self, lines: list[Json], *, torn: bool = False) -> str:
        content = "".join(json.dumps(line) + "\n" for line in lines) + ('{"id": "b", "custom' if torn else "")
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = content.encode()
        return file_id


def _multipart_file(content_type: str, body: bytes) -> bytes:
    message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    for part in message.walk():
        if part.get_filename() is not None:
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return content
    raise AssertionError("no file in the form")


def _handler(server: BatchServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes: each answer would wait 40 ms

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.keys.append(self.headers.get("Authorization", ""))
            path = self.path.removeprefix("/v1")
            if path == "/files":
                self._upload(body)
            elif path == "/batches":
                self._create(json.loads(body))
            elif path.endswith("/cancel"):
                self._say(200, server.cancel(path.split("/")[2]))
            elif path == "/chat/completions":
                server.chat_calls += 1
                self._say(200, server.answer(json.loads(body)))
            else:
                self._say(404, {"error": {"message": "no such thing"}})

        def do_GET(self) -> None:
            path, _, query = self.path.removeprefix("/v1").partition("?")
            parts = path.strip("/").split("/")
            if parts[0] == "files" and parts[-1] == "content":
                self._send(200, server.files[parts[1]])
            elif parts[0] == "batches" and len(parts) == 2:
                self._say(200, server.retrieve(parts[1]))
            elif parts[0] == "batches":
                asked = dict(pair.split("=") for pair in query.split("&") if pair)
                self._say(200, server.listed(asked.get("after"), int(asked.get("limit", 20))))
            else:
                self._say(404, {"error": {"message": "no such thing"}})

        def _upload(self, body: bytes) -> None:
            if server.take("failing_uploads"):
                self._say(503, {"error": {"message": "try later"}}, {"retry-after-ms": "1"})
                return
            self._say(200, server.add_file(_multipart_file(self.headers["Content-Type"], body)))

        def _create(self, body: Json) -> None:
            if server.take("limited_submits"):
                self._say(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
            elif server.take("refused_submits"):
                self._say(400, {"error": {"message": "this file will not do"}})
            elif server.take("drop_before_create"):
                self.close_connection = True
            elif server.take("drop_after_create"):
                server.create(body)
                self.close_connection = True
            else:
                self._say(200, server.create(body))

        def _say(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
            self._send(status, json.dumps(body).encode(), headers)

        def _send(self, status: int, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler
