"""A small stand-in for the server of W&B: as much as its client needs to record, to resume and to sync a run."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Run:
    """What the server has of a run."""

    created: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    exits: list[int] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """Return what was logged with an epoch, in the order of W&B's steps."""
        return [row for _, row in sorted(self.history.items()) if "epoch" in row]

    def bucket(self, name: str) -> dict[str, Any]:
        tail = [json.dumps(row) for _, row in sorted(self.history.items())[-1:]]
        return {
            "id": name,
            "name": name,
            "displayName": self.created.get("displayName"),
            "summaryMetrics": json.dumps(self.summary),
            "logLineCount": 0,
            "historyLineCount": len(self.history),
            "eventsLineCount": self.events,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps(self.config),
            "tags": self.created.get("tags") or [],
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
            "project": {"id": "p", "name": self.created["project"], "entity": {"id": "e", "name": "me"}},
            "sweepName": None,
            "description": "",
        }


class Server(ThreadingHTTPServer):
    """Runs by their ids."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Run] = {}
        self.guard = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL query."""
        if "RunResumeStatus" in query:
            run = self.runs.get(asked["name"])
            project = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "me"}}
            return {"model": {**project, "bucket": run.bucket(asked["name"])} if run else None}
        if "upsertBucket" in query:
            new = asked["name"] not in self.runs
            run = self.runs.setdefault(asked["name"], Run(asked))
            run.created |= {name: value for name, value in asked.items() if value}
            run.config |= json.loads(asked.get("config") or "{}")
            return {"upsertBucket": {"bucket": run.bucket(asked["name"]), "inserted": new}}
        if "query Viewer" in query:
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "query ArtifactType" in query:
            return {"project": {"artifact": None}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{asked['run']}/{name}"} for name in asked["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "createArtifact(" in query:
            raise LookupError("it keeps no artifacts")
        return {}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Take lines of a run's files at their offsets, as W&B counts them, and its end."""
        run = self.runs[name]
        for file, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if file == "wandb-history.jsonl":
                run.history |= dict(enumerate(lines, part["offset"]))
            elif file == "wandb-events.jsonl":
                run.events = part["offset"] + len(lines)
            elif file == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exits.append(sent["exitcode"])


class Handler(BaseHTTPRequestHandler):
    """Speaks as much HTTP as the client does."""

    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        content: dict[str, Any] = {}
        with self.server.guard:
            if self.path == "/graphql":
                asked = json.loads(body)
                try:
                    content = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
                except LookupError as error:
                    content = {"errors": [{"message": str(error)}]}
            elif self.path.endswith("/file_stream"):
                self.server.stream(self.path.split("/")[-2], json.loads(body))
            elif self.path.startswith("/upload/"):
                _, _, run, name = self.path.split("/", 3)
                self.server.runs[run].files.add(name)
        answer = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Serve on loopback, in a thread."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
