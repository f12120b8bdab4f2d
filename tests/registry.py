"""A registry on this machine, for tests: what it serves can be pulled by any engine, as slowly as a test wants it.

Source: distribution-spec, the few requests that a pull makes. It listens on 127.0.0.1, which engines
trust without TLS.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG: Final = "application/vnd.docker.container.image.v1+json"
LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PIECE: Final = 64 << 10


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Registry:
    """Images by name, and the blobs of which they are made."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.released = threading.Event()
        """Until this is set, the last layer of each image stops after its first piece."""
        self.released.set()
        self.waiting = threading.Event()
        """Set once a client waits for the rest of such a layer."""
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.last: set[str] = set()

    def add(self, name: str, layers: Sequence[bytes]) -> str:
        """Serve an image of these layer tars, base first; gives the reference to pull."""
        packed = [gzip.compress(layer, 1) for layer in layers]
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["true"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
                "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "size": len(config), "digest": digest(config)},
                "layers": [{"mediaType": LAYER, "size": len(one), "digest": digest(one)} for one in packed],
            }
        ).encode()
        self.blobs |= {digest(one): one for one in (config, *packed)}
        self.manifests |= {f"{name}/manifests/{key}": manifest for key in ("latest", digest(manifest))}
        self.last.add(digest(packed[-1]))
        return f"{self.host}/{name}:latest"

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Media type and content of what is below ``/v2/``."""
        if path in self.manifests:
            return MANIFEST, self.manifests[path]
        blob = self.blobs.get(path.rpartition("/blobs/")[2])
        return ("application/octet-stream", blob) if blob is not None else None

    def pieces(self, content: bytes) -> Iterator[bytes]:
        yield content[:PIECE]
        if digest(content) in self.last and not self.released.is_set():
            self.waiting.set()
            self.released.wait(60)
        yield content[PIECE:]


@contextmanager
def registry() -> Iterator[Registry]:
    """A registry while it is needed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        default_request_version = "HTTP/1.0"
        """So that TLS is answered by a status line: containerd then tries without."""

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client is gone
                super().handle()

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.removeprefix("/v2/")
            found = served.answer(path) if path else ("text/plain", b"")
            self.send_response(404 if found is None else 200)
            kind, content = found or ("text/plain", b"")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            try:
                for piece in served.pieces(content) if with_body else ():
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True  # the client is gone

        def log_message(self, *_: object) -> None:
            """A test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Registry(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
