"""Reads overlay xattrs and says what they mean. Knows both families and never mixes them.

Sources: kernel ``Documentation/filesystems/overlayfs.rst`` ("whiteouts and opaque directories", "Nesting
overlayfs mounts") and ``fs/overlayfs/{util,namei}.c``. A mount with ``userxattr`` reads ``user.overlay.*``
and ignores ``trusted.overlay.*``; every other mount does the opposite.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

from layerscope.model import XattrFamily
from layerscope.overlay.entry import NO_MARKS, Marks

CAP_SYS_ADMIN: Final = 21
METACOPY_MIN_SIZE: Final = 4
"""A non-empty metacopy value shorter than its header is EIO (``OVL_METACOPY_MIN_SIZE``)."""

UNREADABLE: Final = frozenset({errno.ENODATA, errno.EACCES, errno.EPERM, errno.ENOTSUP})
"""Errors that the kernel, too, takes for "no such mark"."""


Holder = str | int | Mapping[str, bytes]
"""What has xattrs: a path, a descriptor, or they themselves."""


def directory_marks(path: Holder, names: list[str], family: XattrFamily) -> Marks:
    """The marks of a directory whose xattr ``names`` are known.

    ``opaque`` counts only as the one byte ``y``; ``x`` (it holds xattr whiteouts) does not hide anything.
    """
    opaque = family + "opaque" in names and read_xattr(path, family + "opaque") == b"y"
    redirect, invalid = _redirect(path, names, family)
    if not (opaque or redirect or invalid):
        return NO_MARKS
    return Marks(opaque=opaque, redirect=redirect, redirect_invalid=invalid)


def file_marks(path: Holder, names: list[str], family: XattrFamily) -> Marks:
    """The marks of a regular file. A redirect counts only beside a metacopy mark."""
    if family + "metacopy" not in names:
        return NO_MARKS
    value = read_xattr(path, family + "metacopy")
    if value is None:
        return NO_MARKS
    if 0 < len(value) < METACOPY_MIN_SIZE:
        return Marks(metacopy_invalid=True)
    redirect, invalid = _redirect(path, names, family)
    return Marks(metacopy=True, redirect=redirect, redirect_invalid=invalid)


def is_xattr_whiteout(names: list[str], family: XattrFamily) -> bool:
    """Whether an empty regular file with these xattrs is a whiteout (kernel ≥ 6.7)."""
    return family + "whiteout" in names


def _redirect(path: Holder, names: list[str], family: XattrFamily) -> tuple[str | None, bool]:
    """The redirect and whether it is invalid: empty, an empty component, or a relative one with a slash."""
    if family + "redirect" not in names:
        return None, False
    value = read_xattr(path, family + "redirect")
    if value is None:
        return None, False
    text = value.split(b"\0", 1)[0]  # the kernel reads it as a C string
    parts = text.split(b"/")
    valid = all(parts[1:]) if text.startswith(b"/") else bool(value) and len(parts) == 1
    return (os.fsdecode(text), False) if valid else (None, True)


def read_xattr(path: Holder, name: str) -> bytes | None:
    """The value of one xattr without following a symlink; None where the kernel would see none."""
    if isinstance(path, Mapping):
        return path.get(name)
    try:
        if isinstance(path, int):
            return os.getxattr(path, name)
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in UNREADABLE:
            return None
        raise


def shown_name(name: str, family: XattrFamily) -> str | None:
    """The name under which a mount shows an xattr: overlayfs' own not at all, escaped ones unescaped.

    Kernel ≥ 6.7 stores ``trusted.overlay.X`` of a nested overlay as ``trusted.overlay.overlay.X``.
    """
    if not name.startswith(family):
        return name
    escaped = family + "overlay."
    return family + name[len(escaped) :] if name.startswith(escaped) else None


def shown_xattrs(xattrs: Mapping[str, bytes], family: XattrFamily) -> dict[str, bytes]:
    """The xattrs of an inode as a mount shows them."""
    return {shown: value for name, value in xattrs.items() if (shown := shown_name(name, family)) is not None}


def trusted_xattrs_readable() -> bool:
    """Whether this process can see ``trusted.*`` xattrs: CAP_SYS_ADMIN in the initial user namespace.

    Without it the kernel leaves them out of listxattr(2) in silence (xattr(7)).
    """
    try:
        with open("/proc/self/status") as status, open("/proc/self/uid_map") as uid_map:
            effective = next((line.split()[1] for line in status if line.startswith("CapEff:")), "0")
            initial = uid_map.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return os.geteuid() == 0
    return initial and bool(int(effective, 16) >> CAP_SYS_ADMIN & 1)
