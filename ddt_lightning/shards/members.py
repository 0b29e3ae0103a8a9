"""The members of a tar as samples: one place that reads archives, names their members and puts samples together.

Compressed archives (gzip, bzip2, xz) and archives joined by `cat` are read to their end. Of a name, leading `./` and
`/` and what climbs up (`..`) are dropped; `train.v1/0000.source.PNG` is the member `source.png` of the key
`train.v1/0000`: the name is cut at the first dot behind the last slash. Nothing is ever unpacked to the disk.
"""

import bz2
import gzip
import lzma
import tarfile
import tokenize
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

from ddt_lightning.images import BROKEN
from ddt_lightning.shards.remote import Unreachable

Record = dict[str, Any]
Problems = dict[str, str]

TYPES = ("jpg", "jpeg", "png", "webp", "txt", "json", "cls", "npy")
MOST_BYTES = 2**31  # of one member: it is held in memory
PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# What a damaged archive or sample can raise while it is read or decoded.
UNREADABLE = (*BROKEN, tarfile.TarError, lzma.LZMAError, tokenize.TokenError, RecursionError)


class Header(tarfile.TarInfo):
    """Header of a member; the end of an archive is told from damage, which `tarfile` alone takes for an end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        """A header out of its block; of a plain file with a short name only what is used of it is looked at.

        `tarfile` spends more time on the two sums, owners and times of a header than on the ids of an image.

        Raises:
            tarfile.HeaderError: the block is none.
        """
        if len(buf) == tarfile.BLOCKSIZE and buf[156:157] == tarfile.REGTYPE and not buf[345]:  # no further path
            if tarfile.nti(buf[148:156]) == 256 + sum(buf[:148]) + sum(buf[156:]):  # type: ignore[attr-defined]
                found = cls(bytes(buf[:100]).partition(b"\0")[0].decode(encoding, errors))
                found.size = tarfile.nti(buf[124:136])  # type: ignore[attr-defined]
                return found
        return super().frombuf(buf, encoding, errors)

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "Header":
        """The next header of an archive.

        Raises:
            tarfile.ReadError: the archive is damaged, cut off or empty.
        """
        assert isinstance(archive, Archive)
        try:
            found = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # zeros: the end of this archive; another may follow
            archive.ended = True
            raise
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
            if not archive.ended:
                raise tarfile.ReadError("is cut off: a tar ends with zeros" if archive.offset else "is empty") from None
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"is no tar, or damaged at byte {archive.offset}: {error}") from None
        archive.ended = False
        return found


class Archive(tarfile.TarFile):
    """Tar that is read once from front to back, over the ends of archives that were joined."""

    tarinfo: ClassVar[type[tarfile.TarInfo]] = Header  # type: ignore[misc]
    ended = False


def read_records(stream: BinaryIO, url: str, problems: Problems) -> Iterator[Record]:
    """Raw samples of one archive, in file order.

    A sample whose key was there before is left out. Where the archive is damaged, what follows and the sample before
    the damage, which may lack members, are left out.

    Args:
        stream: the archive.
        url: where it lies.
        problems: what is left out is added here (sample or shard -> reason).
    """
    held = Held(url, problems)
    try:
        with Archive.open(fileobj=unpacked(stream), mode="r|", ignore_zeros=True) as archive:
            while (header := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined] # tarfile would keep every header
                key, member = split(header.name)
                if not member or header.isdir():
                    continue
                reason = refusal(header)
                if reason:
                    held.refuse(key, member, reason)
                    continue
                data = archive.fileobj.read(header.size)  # the stream is at its start
                if len(data) < header.size:
                    raise tarfile.ReadError("is cut off: unexpected end of data")
                yield from held.add(key, member, data)
    except Unreachable:  # a network that fails is no damage
        raise
    except UNREADABLE as error:
        reason, last = str(error) or type(error).__name__, held.record.get("__key__")
        lost = f"; {last} and what follows are left out" if last else ""
        problems[url] = f"{'' if reason.startswith('is ') else 'is damaged or cut off: '}{reason}{lost}"
        return
    yield from held.end()


def unpacked(stream: BinaryIO) -> Any:  # noqa: ANN401 - anything that reads
    """A stream without its compression, which its first bytes tell."""
    buffered: Any = stream if hasattr(stream, "peek") else Peekable(stream)
    start = buffered.peek(6)[:6]
    for magic, opened in PACKED.items():
        if start.startswith(magic):
            return Steady(opened(buffered, "rb"))
    return buffered


class Steady:
    """A decompressed stream that gives what is whole before it fails at damage, a piece at a time."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - the streams of three modules without a common type
        self.stream = stream

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        return self.stream.read1(size)


class Peekable:
    """A stream, such as a pipe, whose first bytes can be looked at."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.start = stream, stream.read(tarfile.RECORDSIZE)

    def peek(self, size: int) -> bytes:
        """The bytes that come next."""
        return self.start[:size]

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        if not self.start:
            return self.stream.read(size)
        data, self.start = self.start[:size], self.start[size:]
        return data


def split(name: str) -> tuple[str, str]:
    """Key and member of a name in an archive, the member in lower case; "" for a member that is passed over.

    Passed over are types that are never read, hidden files, and what macOS adds (`._0000.png`, `__MACOSX/`).
    """
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or parts[-1].startswith(".") or "__MACOSX" in parts:
        return "", ""
    base, _, member = parts[-1].partition(".")
    key = "/".join([*parts[:-1], base])
    return key, member.lower() if member.rpartition(".")[2].lower() in TYPES else ""


def refusal(header: tarfile.TarInfo) -> str:
    """Reason why a member of a known type is not read; "" for one that is."""
    if header.islnk() or header.issym():
        return "is a link, and links are never followed: pack the file itself (tar --dereference --hard-dereference)"
    if not header.isreg() or header.issparse():
        return "is not a plain file"
    return f"has more than {MOST_BYTES} bytes" if header.size > MOST_BYTES else ""


def shard_name(url: str) -> str:
    """A shard's name in reports: without its folder."""
    return url.rpartition("/")[2]


class Held:
    """The sample that is being put together, and the keys that were there before it.

    Args:
        url: the shard.
        problems: what is left out is added here.
    """

    def __init__(self, url: str, problems: Problems) -> None:
        self.url, self.problems = url, problems
        self.shard = shard_name(url)
        self.record: Record = {}
        self.seen: dict[str, set[str]] = {}
        self.copies: dict[str, int] = {}
        self.names: dict[frozenset[str], set[str]] = {}

    def add(self, key: str, member: str, data: bytes) -> Iterator[Record]:
        """Take a member; gives the sample before it, where it belongs to another one."""
        if self.record.get("__key__") != key or member in self.record:
            yield from self.end()
            self.record = {"__key__": key, "__url__": self.url}
        self.record[member] = data

    def refuse(self, key: str, member: str, reason: str) -> None:
        """Name a member that is not read."""
        self.problems[f"{self.shard}:{key}.{member}"] = reason

    def end(self) -> Iterator[Record]:
        """The sample, if it is whole and its key is new."""
        record, self.record = self.record, {}
        if not record:
            return
        key, found = record["__key__"], {member for member in record if not member.startswith("__")}
        before = self.seen.get(key)
        if before is None:
            self.seen[key] = self.names.setdefault(frozenset(found), found)  # most samples have the same members
            yield record
            return
        self.copies[key] = copy = self.copies.get(key, 1) + 1
        if found & before:
            reason = "its key was there before: the first sample is used"
        else:
            apart, first = ", ".join(sorted(found)), ", ".join(sorted(before))
            reason = f"its {apart} lies apart from its {first}, which is used alone: pack a sample's files side by side"
        self.problems[f"{self.shard}:{key}#{copy}"] = reason
