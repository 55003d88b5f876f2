"""The double as a context manager: what tests and `__main__` hold in their hands."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from controller.testing.hugging_face import ledger
from controller.testing.hugging_face.faults import parse
from controller.testing.hugging_face.jobs import Script
from controller.testing.hugging_face.server import Server, listen
from controller.testing.hugging_face.world import Options, World


class HuggingFaceDouble:
    """Runs in threads of this process while it is open; `folder` holds all that it knows."""

    def __init__(self, folder: Path, options: Options | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.world = World(folder, options or Options())
        self._address = (host, port)
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        host, port = self._address
        hub, storage = listen(self.world, host, port), listen(self.world, host, 0, storage=True)
        self._servers = [hub, storage]
        self.world.url, self.world.storage_url = hub.url, storage.url
        self.world.open()
        return self

    def __exit__(self, *raised: object) -> None:
        self.world.close()
        for server in self._servers:
            server.stop()

    @property
    def url(self) -> str:
        return self.world.url

    @property
    def inference_endpoints_url(self) -> str:
        return f"{self.url}/v2"

    @property
    def token(self) -> str:
        """Of the first account."""
        return next(iter(self.world.options.accounts))

    def fail(self, route: str, kind: str, **how: Any) -> None:
        """Adds a fault (`faults.py`). Raises ValueError for one that does not exist."""
        for fault in parse([{"route": route, "kind": kind, **how}], self.world.clock.now()):
            self.world.faults.add(fault)

    def heal(self) -> None:
        """No more faults."""
        self.world.faults.set([])

    def advance(self, seconds: float) -> None:
        """Moves the double's clock: jobs and endpoints live on, and are billed for it."""
        with self.world.lock:
            self.world.clock.advance(seconds)

    def script(self, *lines: str, **how: Any) -> None:
        """What the jobs from now on do (`jobs.Script`)."""
        self.world.script = Script.parse({"lines": lines, **how})

    def ledger(self) -> dict[str, Any]:
        with self.world.lock:
            return ledger.ledger(self.world)

    def seed(
        self,
        kind: str,
        repo: str,
        files: Mapping[str, bytes],
        *,
        private: bool = False,
        gated: bool = False,
        large: tuple[str, ...] = (),
    ) -> str:
        """A repository that is there already; `large` names the files that count as large. Returns its commit."""
        store, now = self.world.repositories, self.world.clock.now()
        with self.world.lock:
            record = store.create(kind, repo, private=private, author="seed", now=now, gated=gated)
            tree = dict(record["commits"][record["branches"]["main"]]["tree"])
            for path, content in files.items():
                tree[path] = store.large(store.contents.keep(BytesIO(content))[0]) if path in large else store.regular(content)
            return store.commit(record, "main", tree, "seed", "", "seed", now)
