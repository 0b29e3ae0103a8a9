"""Shards that lie elsewhere: URLs and `pipe:` commands as streams of bytes that outlive a connection that breaks.

http and https are read here and go on where they broke. `s3://` is read with the command `aws s3 cp`; `pipe:` and the
other schemes are opened as webdataset opens them. A command that fails runs again, and what was read of it is passed
over, so that it must give the same bytes every time. What cannot be read after `TRIES` tries is an error with the
shard's name, and no damage of the shard: a training that went on without it would train on other data.

A `pipe:` command is run by the shell. It comes from the options and YAML files of the user alone: `read.expand` is the
only source of URLs, and nothing that a shard or a model folder holds is ever opened as one.
"""

import base64
import http.client
import io
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

TRIES = 8  # in a row without a byte: two minutes of waiting
WAIT, LONGEST = 1.0, 32.0  # seconds before the second try, doubled each time up to the longest
SILENCE = 60.0  # seconds without a byte after which a connection counts as broken
BLOCK = 2**20
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that another try may not get
ABSENT = (404, 410)  # answers of a server that has no such file
NOT_RUN = (126, 127)  # exit codes of a shell that found no such command


def schemes() -> list[str]:
    """What stands before `://` in URLs that can be opened."""
    from webdataset.gopen import gopen_schemes  # imports torch

    return sorted({"s3", "file", *gopen_schemes} - {"pipe", "__default__"})


class Unreachable(ConnectionError):
    """A shard that cannot be read to its end. It ends a training, unlike damage, which is skipped and counted."""


class Absent(Unreachable):
    """A file that is not there, as its server says."""


class Final(OSError):
    """A failure that another try cannot change."""


class Source(Protocol):
    """Protocol of one connection or one run of a command."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""

    def end(self) -> None:
        """Raise where the end is not that of the shard."""

    def close(self) -> None:
        """Leave the rest unread."""


def is_remote(url: str) -> bool:
    """Whether `url` is opened with a command or over the network."""
    return url.startswith("pipe:") or "://" in url


def check_url(url: str, option: str) -> None:
    """Refuse a URL that nothing can open.

    Raises:
        ValueError: an unknown scheme, or a glob, which a server cannot list.
    """
    scheme = url.partition(":")[0]
    if scheme != "pipe" and scheme not in (known := schemes()):
        raise ValueError(f"`{option}` ({url}): nothing opens {scheme}:// - use {', '.join(known)} or `pipe:COMMAND`.")
    if scheme != "pipe" and "*" in url:
        raise ValueError(f"`{option}` ({url}): a URL takes braces, such as {{000..099}}, and no *.")


def fetch(url: str) -> bytes:
    """The bytes of a small file.

    Raises:
        Unreachable: it cannot be read.
    """
    with open_remote(url) as stream:
        return stream.read()


def fetch_if_there(url: str) -> bytes | None:
    """The bytes of a small file over http; None where its server says that there is none.

    A command that fails (`s3://`, ...) does not say whether its file is not there or cannot be reached; such a URL is
    not looked at, and None.

    Raises:
        Unreachable: the server cannot be asked.
    """
    from webdataset.gopen import rewrite_url

    if not rewrite_url(url).startswith(("http://", "https://")):
        return None
    try:
        return fetch(url)
    except Absent:
        return None


def open_remote(url: str) -> io.BufferedReader:
    """The bytes behind a URL or command; reading raises `Unreachable`."""
    return io.BufferedReader(Remote(url), BLOCK)


class Remote(io.RawIOBase):
    """A stream that opens its source again, at the same place, when it breaks.

    Args:
        url: URL or `pipe:` command.
    """

    def __init__(self, url: str) -> None:
        self.url, self.at, self.ended = url, 0, False
        self.source: Source | None = None
        self.first: Http | None = None

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable bytes
        """Fill the buffer in part, or return 0 at the end.

        Raises:
            Unreachable: after `TRIES` tries, or one that no other can better.
        """
        for attempt in range(0 if self.ended else TRIES):
            try:
                data = self._read(len(buffer))
                buffer[: len(data)] = data
                self.at += len(data)
                return len(data)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                reason = reason_of(error)
                if is_final(error) or attempt == TRIES - 1:
                    times = "" if is_final(error) else f" after {TRIES} tries"
                    kind = Absent if getattr(error, "code", None) in ABSENT else Unreachable
                    raise kind(f"shard {self.url} cannot be read{times}: {reason}.") from None
                wait = min(WAIT * 2**attempt, LONGEST)
                log.warning("shard %s at byte %d: %s; again in %g s", self.url, self.at, reason, wait)
                time.sleep(wait)
        return 0

    def close(self) -> None:
        """Close the source, too."""
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        if self.source is None:
            self.source = self._open()
        data = self.source.read(size)
        if not data:
            self.source.end()
            self.ended = True
        return data

    def _open(self) -> Source:
        from webdataset.gopen import rewrite_url

        source: Source
        url, passed_over = rewrite_url(self.url), 0
        if url.startswith(("http://", "https://")):
            source = Http(url, self.at)
            self.first = self.first or source
            for was, now in ((self.first.size, source.size), (self.first.version, source.version)):
                if None not in (was, now) and was != now:
                    source.close()
                    raise Final(f"it changed while it was read ({was} before, now {now})")
            passed_over = source.at
        else:
            source = Command(url)
        while passed_over < self.at:
            data = source.read(min(self.at - passed_over, BLOCK))
            if not data:
                source.end()
                raise Final(f"it had {self.at} bytes and now has {passed_over}")
            passed_over += len(data)
        return source

    def _drop(self) -> None:
        if self.source is not None:
            self.source.close()
            self.source = None


class Http:
    """An answer of a server.

    Args:
        url: http or https, perhaps with user and password.
        at: first byte that is wanted.

    Attributes:
        at: first byte that comes: `at`, or 0 from a server that does not know ranges.
        size: bytes of the whole file, or None where the server does not say.
        version: what the server calls this version of the file.
    """

    def __init__(self, url: str, at: int) -> None:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        request = urllib.request.Request(parts._replace(netloc=place).geturl())
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
        if at:
            request.add_header("Range", f"bytes={at}-")
        self.answer = urllib.request.urlopen(request, timeout=SILENCE)
        self.at = at if self.answer.status == 206 else 0
        length = self.answer.headers["Content-Length"]
        self.size = self.at + int(length) if length is not None else None
        self.version = self.answer.headers["ETag"]
        self.got = self.at

    def read(self, size: int) -> bytes:
        """The next bytes, as soon as there are any."""
        data = self.answer.read1(size)
        self.got += len(data)
        return data

    def end(self) -> None:
        """Raise where bytes are missing."""
        if self.size is not None and self.got < self.size:
            raise ConnectionError(f"the connection ended at byte {self.got} of {self.size}")

    def close(self) -> None:
        """Close the connection."""
        self.answer.close()


class Command:
    """A run of a command, or a file behind one of webdataset's other schemes.

    Args:
        url: `pipe:` command or URL.
    """

    def __init__(self, url: str) -> None:
        from webdataset.gopen import Pipe, gopen, gopen_schemes

        if url.startswith("s3://") and "s3" not in gopen_schemes:
            self.opened = Pipe(["aws", "s3", "cp", url, "-"], mode="r")
        else:
            self.opened = gopen(url, "rb")
        self.stream = self.opened.stream if isinstance(self.opened, Pipe) else self.opened

    def read(self, size: int) -> bytes:
        """The next bytes, as soon as there are any."""
        data: bytes = self.stream.read1(size)
        return data

    def end(self) -> None:
        """Raise where the command failed."""
        try:
            self.opened.close()
        except OSError:
            code = self.opened.proc.returncode
            kind = Final if code in NOT_RUN else OSError
            raise kind(f"the command ended with exit code {code}") from None

    def close(self) -> None:
        """End the command."""
        if self.opened is not self.stream:  # a command
            self.opened.proc.terminate()
        try:
            self.opened.close()
        except OSError:
            pass  # how a command ends whose output nobody wants says nothing


def is_final(error: Exception) -> bool:
    """Whether no other try can end better: no such file or command, no right to it, a certificate that is not valid."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code not in PASSING
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, ssl.SSLCertVerificationError):
        return True
    return isinstance(error, Final | FileNotFoundError | PermissionError | http.client.InvalidURL)


def reason_of(error: Exception) -> str:
    """A failure in words on one line."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no {error.filename} here"
    if isinstance(error, urllib.error.URLError):
        return f"there is no connection: {error.reason}"
    return re.sub(r"\s+", " ", str(error)) or type(error).__name__
