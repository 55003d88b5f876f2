"""The double of a Kubernetes API server over HTTP, on loopback, and the kubeconfig by which real clients find it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from controller.testing.kubernetes_api import ADMIN, KubernetesApi


@contextmanager
def serving(api: KubernetesApi) -> Iterator[str]:
    """The double on loopback; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            kind = self.headers.get("content-type") or ""
            done = api.handle(self.command, self.path, body, kind, token, self.headers.get("user-agent") or "")
            text = done.body.encode() if isinstance(done.body, str) else json.dumps(done.body).encode()
            self.send_response(done.status)
            self.send_header("Content-Type", "text/plain; charset=utf-8" if isinstance(done.body, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            for warning in done.warnings:
                self.send_header("Warning", warning)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def kubeconfig(path: Path, address: str, token: str = ADMIN, context: str = "double") -> Path:
    """A file by which real clients find the double."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": address}}],
        "users": [{"name": context, "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path
