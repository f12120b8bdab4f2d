"""An image in which every kind of exposure hides a token of its own, and the container that adds more.

The tokens are made up here, each with a valid checksum, so that no rule has a reason to let one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.secrets.specimens import github_token


@dataclass(frozen=True)
class Plant:
    """A token, where it must be found, and why it is not seen."""

    name: str
    path: str
    exposure: str
    reason: str | None = None
    """Why it is hidden."""
    added_by: str | None = None
    """Part of the instruction that put it there."""
    hidden_by: str | None = None
    """Part of the instruction that hid it."""

    @property
    def token(self) -> str:
        return token(self.name)


def token(name: str) -> str:
    """The token of a plant, always the same."""
    return github_token(sum(ord(character) << index for index, character in enumerate(name)))


PLANTS: Final = (
    Plant("visible", "app/visible.env", "visible", added_by="/app/visible.env"),
    Plant("deleted", "app/deleted.env", "deleted", "whiteout", "/app/deleted.env", "rm /app/deleted.env"),
    Plant("in-directory", "gone/deep/in.env", "deleted", "whiteout", "/gone/deep/in.env", "rm -r /gone"),
    Plant("opaque", "state/opaque.env", "deleted", "opaque", "/state/opaque.env", "mkdir /state"),
    Plant("overwritten", "app/settings.env", "overwritten", "overwritten", "/app/settings.env", "TOKEN= >"),
    Plant("binary", "app/tool", "deleted", "whiteout", "/app/tool", "rm /app/tool"),
    Plant("library", "usr/lib/pkg/lib.conf", "visible", added_by="/usr/lib/pkg/lib.conf"),
    Plant("module", "srv/node_modules/pkg/index.js", "visible", added_by="/srv/node_modules/pkg/index.js"),
    Plant("renamed", "app/before.env", "deleted", "whiteout", "/app/before.env", "mv /app/before.env"),
    Plant("renamed", "app/after.env", "visible", added_by="mv /app/before.env"),
    Plant("replaced", "app/thing", "deleted", "replaced", "/app/thing", "mkdir /app/thing"),
    Plant("linked", "app/link-a", "visible", added_by="ln /app/link-a"),
    Plant("linked", "app/link-b", "visible", added_by="ln /app/link-a"),
    Plant("utf16", "app/utf16.txt", "visible", added_by="/app/utf16.txt"),
    Plant("echoed", "app/echoed", "deleted", "whiteout", "> /app/echoed", "rm /app/echoed"),
    Plant("env", "config.Env.API_TOKEN", "config", added_by="ENV API_TOKEN"),
    Plant("label", "config.Labels.deploy.key", "config", added_by="LABEL"),
    Plant("command", "config.Cmd", "config", added_by="CMD"),
    Plant("health", "config.Healthcheck.Test", "config", added_by="HEALTHCHECK"),
    Plant("history", "history", "config", added_by=": "),
    Plant("argument", "argument.BUILD_TOKEN", "config"),
)

CONTAINER_PLANTS: Final = (
    Plant("upper", "srv/upper.env", "visible"),
    Plant("container-env", "config.Env.RUN_TOKEN", "config"),
    Plant("container-label", "config.Labels.run.key", "config"),
)


def dockerfile() -> str:
    """What builds the image, from the files of ``context`` and the build argument BUILD_TOKEN."""
    return f"""
FROM BASE
ARG BUILD_TOKEN
COPY visible /app/visible.env
COPY deleted /app/deleted.env
RUN rm /app/deleted.env
COPY in-directory /gone/deep/in.env
RUN rm -r /gone
COPY opaque /state/opaque.env
RUN rm -r /state && mkdir /state && echo new > /state/new
COPY overwritten /app/settings.env
RUN echo TOKEN= > /app/settings.env
COPY binary /app/tool
RUN rm /app/tool
COPY library /usr/lib/pkg/lib.conf
COPY module /srv/node_modules/pkg/index.js
COPY renamed /app/before.env
RUN mv /app/before.env /app/after.env
COPY replaced /app/thing
RUN rm /app/thing && mkdir /app/thing && echo x > /app/thing/x
COPY linked /app/link-a
RUN ln /app/link-a /app/link-b
COPY utf16 /app/utf16.txt
RUN echo {token("echoed")} > /app/echoed
RUN rm /app/echoed
RUN : {token("history")}
RUN : "$BUILD_TOKEN"
ENV API_TOKEN={token("env")}
LABEL deploy.key={token("label")}
HEALTHCHECK CMD test {token("health")}
CMD ["sleep", "600", "{token("command")}"]
"""


def context() -> dict[str, bytes]:
    """The files that the image is built from."""
    files = {
        plant.name: f"# a file of the specimen\nTOKEN={plant.token}\n".encode()
        for plant in PLANTS
        if plant.exposure != "config" and plant.name not in ("binary", "utf16", "echoed")
    }
    files["binary"] = b"\x7fELF\x00\x01\x02\x00" + token("binary").encode() + bytes(range(256)) * 8
    files["utf16"] = f"token = {token('utf16')}\r\n".encode("utf-16")
    return files
