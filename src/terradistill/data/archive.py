"""Zip archives read in place: nothing is unpacked to disk, and a hostile archive is refused before anything is read."""

import lzma
import stat
import threading
import zipfile
import zlib
from pathlib import Path

from terradistill.errors import DataError

MAX_MEMBERS = 2_000_000
MAX_TOTAL_BYTES = 64 * 2**30
MAX_MEMBER_BYTES = 256 * 2**20
MAX_RATIO = 200  # deflate reaches about 1000 on constant data, photographs stay near 1
RATIO_FREE_BYTES = 2**20  # a small blank image may compress as well as it likes


class ZipSource:
    """The files of a zip archive by name.

    Args:
        path: the archive.

    Raises:
        DataError: no zip archive, or one that breaks a limit above, escapes its folder, links or is encrypted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is not a readable zip archive; give a folder or a .zip of class folders."
            ) from error
        members = self._archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise DataError(
                f"{path} has {len(members)} members; at most {MAX_MEMBERS} are accepted. Unpack it yourself."
            )
        total = sum(member.file_size for member in members)
        if total > MAX_TOTAL_BYTES:
            raise DataError(
                f"{path} unpacks to {total / 2**30:.1f} GiB; at most {MAX_TOTAL_BYTES // 2**30} GiB are accepted. "
                "Unpack it yourself if you trust it."
            )
        for member in members:
            _refuse_hostile(path, member)
        self._members = {
            member.filename.replace("\\", "/").removeprefix("./"): member for member in members if not member.is_dir()
        }
        self._lock = threading.Lock()  # the members share one file position

    @property
    def names(self) -> list[str]:
        """Member names, directories left out."""
        return list(self._members)

    def __call__(self, name: str) -> bytes:
        """The bytes of one member; safe to call from several threads.

        Raises:
            DataError: the member is missing, too large or damaged.
        """
        member = self._members.get(name)
        if member is None:
            raise DataError(f"{self.path} has no member {name!r}.")
        if member.file_size > MAX_MEMBER_BYTES:
            raise DataError(
                f"{name!r} in {self.path} is {member.file_size / 2**20:.0f} MiB; "
                f"at most {MAX_MEMBER_BYTES // 2**20} MiB a file are accepted."
            )
        try:
            with self._lock, self._archive.open(member) as stream:
                # Bounded by the declared size: a member that holds more then fails its checksum.
                return stream.read(member.file_size)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{name!r} in {self.path} is damaged and cannot be read.") from error


def _refuse_hostile(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        raise DataError(f"{path} has a member {name!r} that points outside the archive; it is not read. Make it anew.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{path} has a symbolic link {name!r}; links are not followed. Pack the files themselves.")
    if member.flag_bits & 0x1:
        raise DataError(f"{path} is encrypted ({name!r}); give an archive without a password.")
    if member.file_size > RATIO_FREE_BYTES and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise DataError(
            f"{path} has a member {name!r} that grows more than {MAX_RATIO} times when unpacked; "
            "it looks like a zip bomb and is not read."
        )
