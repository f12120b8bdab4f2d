"""What containerd's garbage collection would take once images or leases are gone: played through on the records.

What ``docker rmi``, ``docker rm`` and ``docker builder prune`` free with the containerd image store: each gives up
names of images, or leases, and has containerd collect (moby ``daemon/containerd/image_delete.go``,
``daemon/containerd/image_snapshot.go``; BuildKit ``cache/manager.go``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from layerscope.analysis.containerd_state import ContainerdState
from layerscope.model import CacheId
from layerscope.stores.reachable import Node, Root, kept_by


@dataclass(frozen=True, slots=True)
class Collected:
    """What would go; what nothing keeps already is no part of it."""

    snapshots: tuple[CacheId, ...]
    """Directories."""
    blobs: tuple[str, ...]
    """Digests."""
    kept: dict[Node, tuple[Root, ...]]
    """What would still be kept, and for whose sake."""


def collected(state: ContainerdState, *, images: Collection[str] = (), leases: Collection[str] = ()) -> Collected:
    """What goes with names of images, in full, and with leases of the store's own namespace."""
    kept = dict(state.kept)
    namespace = state.namespaces.get(state.namespace)
    if namespace is not None:
        without = replace(
            namespace,
            images={name: image for name, image in namespace.images.items() if name not in images},
            leases={name: lease for name, lease in namespace.leases.items() if name not in leases},
        )
        kept = {node: roots for node, roots in kept.items() if node.namespace != state.namespace}
        kept |= kept_by(without, state.read_ns)
    gone = [node for node in state.kept if node not in kept]
    still = {node.key for node in kept if node.snapshotter is None}
    directories = (state.directory_of(node.namespace, node.key) for node in gone if node.snapshotter is not None)
    blobs = (node.key for node in gone if node.snapshotter is None and node.key not in still)
    return Collected(
        tuple(dict.fromkeys(name for name in directories if name is not None)), tuple(dict.fromkeys(blobs)), kept
    )
