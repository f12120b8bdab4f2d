"""What a directory of ``overlay2/``, or a snapshot or blob of containerd, is there for, and what frees it.

What ``owner`` and ``orphans`` have in common. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from layerscope.model import ChainId
from layerscope.stores.evidence import Evidence, Witness


class Purpose(StrEnum):
    """The class of a directory, or of a short link: those in use, then orphans, then open questions."""

    IMAGE = "image-layer"
    UPPER = "container-upper"
    INIT = "container-init"
    LOWER = "container-lower"
    """A layer of an image that is gone, which a container still stands on."""
    BUILD = "build-cache"
    IMAGE_BLOB = "image-blob"
    """What containerd stores of an image: manifests, configurations, layers as they are pulled and pushed."""
    BUILD_BLOB = "build-blob"
    """A layer of the build cache as it is pushed."""
    HISTORY = "build-history"
    """A blob of containerd's that tells of a past build."""
    HELD = "held"
    """A lease or label of containerd keeps it, for no image, container or build: for a pull or another client."""
    MOUNTED = "mounted"
    """Nothing but a live mount holds it."""
    SPARE = "spare-layer"
    """In layerdb, but in no image, container or build cache: a pull that is under way, or was cut off."""
    DOWNLOAD = "download"
    """A blob that containerd has begun to fetch or write."""
    LEAKED_UPPER = "leaked-upper"
    LEAKED_INIT = "leaked-init"
    HALF_REMOVED = "half-removed"
    UNFINISHED = "unfinished"
    """Its registration as a layer was begun and not finished."""
    LEAKED_LEASE = "leaked-lease"
    """Only a lease keeps it whose container or build record is gone."""
    GARBAGE = "garbage"
    """containerd knows it and nothing keeps it: its next garbage collection takes it."""
    UNKEYED = "unkeyed"
    """The snapshotter has it, and no namespace of containerd knows it."""
    UNREFERENCED = "unreferenced"
    DANGLING_LINK = "dangling-link"
    YOUNG = "too-young"
    """It would be an orphan, but it changed a moment ago."""
    UNKNOWN = "unknown"
    """It would be an orphan, but not everything that may refer to it could be read."""


ORPHANS: Final = frozenset(
    {
        Purpose.LEAKED_UPPER,
        Purpose.LEAKED_INIT,
        Purpose.HALF_REMOVED,
        Purpose.UNFINISHED,
        Purpose.LEAKED_LEASE,
        Purpose.GARBAGE,
        Purpose.UNKEYED,
        Purpose.UNREFERENCED,
        Purpose.DANGLING_LINK,
    }
)


@dataclass(frozen=True, slots=True)
class LayersInUse:
    """The layers of layerdb by who holds them."""

    by_images: Collection[ChainId] = ()
    by_containers: Collection[ChainId] = ()


def purpose_of(evidence: Sequence[Evidence], layers: LayersInUse) -> Purpose:
    """The class that the evidence gives a directory; unreferenced without any.

    A layer that an image and the build cache hold is the image's: pruning the cache leaves it.
    """
    witnesses = {item.witness for item in evidence}
    chains = {item.holder for item in evidence if item.witness is Witness.LAYER}
    if Witness.CONTAINER in witnesses:
        return Purpose.UPPER if Witness.UPPER in witnesses else Purpose.INIT
    if any(chain_id in layers.by_images for chain_id in chains):
        return Purpose.IMAGE
    if any(chain_id in layers.by_containers for chain_id in chains):
        return Purpose.LOWER
    for witness, purpose in _BY_WITNESS:
        if witness in witnesses:
            return purpose
    return Purpose.UNREFERENCED


_BY_WITNESS: Final = (
    (Witness.BUILD_SNAPSHOT, Purpose.BUILD),
    (Witness.BUILD_RECORD, Purpose.BUILD),
    (Witness.MOUNT, Purpose.MOUNTED),
    (Witness.LAYER, Purpose.SPARE),
    (Witness.REMOVED_LAYER, Purpose.HALF_REMOVED),
    (Witness.UNFINISHED_LAYER, Purpose.UNFINISHED),
    (Witness.UPPER, Purpose.LEAKED_UPPER),
    (Witness.INIT, Purpose.LEAKED_INIT),
)
"""The first witness decides."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """How to free what a directory takes. It is only ever told."""

    command: str | None
    """None where no official command does it."""
    note: str


_BY_HAND: Final = "stop the engine, move it and its link out of overlay2/, delete both when all still works"
REMEDIES: Final[dict[Purpose, Remedy]] = {
    Purpose.IMAGE: Remedy("docker rmi IMAGE", "goes with the last image that holds it"),
    Purpose.UPPER: Remedy("docker rm CONTAINER", "what the container wrote goes with it"),
    Purpose.INIT: Remedy("docker rm CONTAINER", "goes with its container"),
    Purpose.LOWER: Remedy("docker rm CONTAINER", "its image is gone; it goes with the last container on it"),
    Purpose.BUILD: Remedy("docker builder prune", "--all takes what the last builds used, too"),
    Purpose.MOUNTED: Remedy("umount MOUNTPOINT", "only a mount holds it; elsewhere: nsenter -m -t PID umount …"),
    Purpose.SPARE: Remedy(None, "a pull or load is under way or was cut off: pull again, then docker rmi"),
    Purpose.LEAKED_UPPER: Remedy(None, f"diff/ has what a lost container wrote; {_BY_HAND}"),
    Purpose.LEAKED_INIT: Remedy(None, _BY_HAND),
    Purpose.HALF_REMOVED: Remedy(
        "systemctl restart docker", "an engine that stops ends removals; with live-restore stop containers first"
    ),
    Purpose.UNFINISHED: Remedy(None, f"a pull, load or build was cut off; {_BY_HAND}"),
    Purpose.UNREFERENCED: Remedy(None, _BY_HAND),
    Purpose.DANGLING_LINK: Remedy(None, "takes next to no space; stop the engine before you delete it"),
    Purpose.YOUNG: Remedy(None, "the engine may be at work on it: ask again later"),
    Purpose.UNKNOWN: Remedy(None, "leave it alone until what the warnings name can be read"),
}
"""For every class of overlay2. Words in capitals stand for names."""
_COLLECTED: Final = (
    "containerd's garbage collection takes it: a snapshot when any container is removed or containerd restarts"
    " (`systemctl restart containerd` where it is a service of its own), a blob when any image is removed"
)
_RESTART: Final = "systemctl restart docker"
_LEASE: Final = "ctr -n moby leases rm LEASE"
CONTAINERD_REMEDIES: Final[dict[Purpose, Remedy]] = {
    **REMEDIES,
    Purpose.IMAGE: Remedy("docker rmi IMAGE", "goes with the last image that leads to it"),
    Purpose.BUILD: Remedy("docker builder prune --all", "what images have unpacked as well stays"),
    Purpose.IMAGE_BLOB: Remedy("docker rmi IMAGE", "goes with the last image that leads to it"),
    Purpose.BUILD_BLOB: Remedy("docker builder prune --all", "what images have stored as well stays"),
    Purpose.DOWNLOAD: Remedy(None, "a pull is under way; one that was cut off expires after a day: or pull again"),
    Purpose.HISTORY: Remedy(None, "BuildKit keeps it to tell of past builds, and decides how long"),
    Purpose.HELD: Remedy(_LEASE, "a pull that is under way, or another client of containerd, keeps it"),
    Purpose.LEAKED_UPPER: Remedy(_LEASE, "it has what a lost container wrote; the lease has the container's id"),
    Purpose.LEAKED_INIT: Remedy(_LEASE, "the lease has the id of the lost container"),
    Purpose.LEAKED_LEASE: Remedy(_LEASE, "the container or build record that the lease was taken for is gone"),
    Purpose.GARBAGE: Remedy(_RESTART, _COLLECTED),
    Purpose.UNKEYED: Remedy(_RESTART, _COLLECTED),
    Purpose.UNFINISHED: Remedy(_RESTART, f"something was cut off; {_COLLECTED}"),
    Purpose.UNREFERENCED: Remedy(_RESTART, _COLLECTED),
}
"""For every class of a containerd root."""
_FOREIGN: Final = "nerdctl, crictl and kubectl have commands of their own"
NAMESPACE_REMEDIES: Final[dict[Purpose, Remedy]] = {
    **CONTAINERD_REMEDIES,
    **dict.fromkeys((Purpose.IMAGE, Purpose.IMAGE_BLOB), Remedy("ctr -n NAMESPACE images rm IMAGE", _FOREIGN)),
    **dict.fromkeys(
        (Purpose.UPPER, Purpose.INIT, Purpose.LOWER), Remedy("ctr -n NAMESPACE containers rm CONTAINER", _FOREIGN)
    ),
    Purpose.HELD: Remedy("ctr -n NAMESPACE leases rm LEASE", "an engine, a pull or another client keeps it"),
}
"""The same for a namespace that is no Docker engine's."""
