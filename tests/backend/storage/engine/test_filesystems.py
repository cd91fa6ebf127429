from __future__ import annotations

from pathlib import Path

import pytest

from backend.storage.engine.filesystems import filesystem_of, is_network_filesystem

MOUNTS = """\
sysfs /sys sysfs rw 0 0
/dev/root / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/ada\\040l ext4 rw 0 0
tmpfs /over tmpfs rw 0 0
//server/share /over cifs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/store", "ext4"),
        ("/home/ada/store", "nfs4"),
        ("/home/ada l/store", "ext4"),
        ("/homestead/store", "ext4"),
        ("/over/store", "cifs"),
    ],
)
def test_the_deepest_and_latest_mount_holds_the_path(path, expected):
    assert filesystem_of(Path(path), MOUNTS) == expected


def test_an_unreadable_table_gives_none():
    assert filesystem_of(Path("/x"), "") is None


def test_the_real_table_knows_the_root():
    assert filesystem_of(Path("/"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("nfs4", True), ("cifs", True), ("ext4", False), ("tmpfs", False), (None, False)],
)
def test_network_filesystems(name, expected):
    assert is_network_filesystem(name) is expected
