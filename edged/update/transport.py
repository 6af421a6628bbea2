"""How bytes come from a repository: over https, http or from a folder, bounded in size, time and rate.

Nothing that comes is believed here; whoever asked holds it against a signed digest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.ngclient import Urllib3Fetcher
from tuf.ngclient._internal.proxy import ProxyEnvironment

from edged import __version__, inside
from edged.errors import Code, EdgedError

SCHEMES = ("https", "http", "file")
_READ_BYTES = 64 * 1024

# A wait for the rate is cut into such parts, so that whoever watches sees it go on.
_LONGEST_SLEEP_S = 5.0

PARALLEL = 4
"""How many requests may be under way; so many connections are kept."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What fetching may take."""

    rate: int = 0
    """Bytes a second, 0 for no bound."""
    budget: int = -1
    """Bytes in all, -1 for no bound: what is left of the day's on a metered link."""
    ca: str = ""
    """The file of the authorities that may vouch for a server; empty: those of the system."""
    timeout_s: int = 30
    """The longest wait for a connection and for the next byte."""
    least_rate: int = 512
    """Bytes a second, judged once `timeout_s` have passed; what is slower is given up."""


class Transport(Urllib3Fetcher):
    """The fetcher that python-tuf's client is given; chunks come through it too. It may be used by several threads.

    Proxies are those of the environment (`https_proxy`, `no_proxy` …), as the service manager sets them.
    """

    def __init__(self, terms: Terms, heartbeat: Callable[[bool], None] = lambda _: None) -> None:
        """`heartbeat` is called while something goes on: a request begins or ends, bytes come, a wait for the rate.

        It is told whether any request is under way.
        """
        super().__init__(socket_timeout=terms.timeout_s)
        headers, authorities = {"User-Agent": f"edged/{__version__}"}, {"ca_certs": terms.ca} if terms.ca else {}
        self._proxy_env = ProxyEnvironment(headers=headers, maxsize=PARALLEL, **authorities)
        self.terms = terms
        self.received = 0
        """Bytes of bodies that came so far."""
        self._heartbeat = heartbeat
        self._under_way = 0
        """Requests that have not ended."""
        self._lock = threading.Lock()
        self._free_at = 0.0
        """When the rate allows the next request (monotonic)."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The body behind `url`, of at most `max_length` bytes; nothing touches a disk. Raises DownloadError."""
        self._pace()
        self._turn(1)
        try:
            return self._read(url, max_length)
        finally:
            self._turn(-1)

    def _read(self, url: str, max_length: int) -> bytes:
        parts: list[bytes] = []
        length = 0
        body = self.fetch(url)
        try:
            for part in body:
                length += len(part)
                self._count(len(part))
                self._heartbeat(True)
                if length > max_length:
                    found = f"{url} is larger than the {max_length} bytes that it may be"
                    raise DownloadLengthMismatchError(found)
                parts.append(part)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise DownloadError(f"{url}: {_reason(error)}") from error
        finally:
            close = getattr(body, "close", None)
            if close:
                close()
        return b"".join(parts)

    def _turn(self, more: int) -> None:
        """A request begins or ends."""
        with self._lock:
            self._under_way += more
            self._heartbeat(self._under_way > 0)

    def _fetch(self, url: str) -> Iterator[bytes]:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return read_file(Path(unquote(parts.path)), url)
        return super()._fetch(url)

    def fetch(self, url: str) -> Iterator[bytes]:
        """As the client's own, but for the reason, which its error then tells."""
        try:
            return self._fetch(url)
        except SlowRetrievalError as error:  # the client's word for a refused connection too, and without a reason
            cause = error.__cause__
            raise DownloadError(f"{url}: {_reason(cause if isinstance(cause, Exception) else error)}") from error
        except DownloadError:
            raise
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise DownloadError(f"{url}: {_reason(error)}") from error

    def _chunks(self, response: Any) -> Iterator[bytes]:
        begun = time.monotonic()
        received = 0
        try:
            while part := response.read1(_READ_BYTES, decode_content=False):
                received += len(part)
                yield part
                taken_s = time.monotonic() - begun
                if taken_s > self.terms.timeout_s and received < taken_s * self.terms.least_rate:
                    raise SlowRetrievalError(f"{received} bytes came in {taken_s:.0f} s")
        except urllib3.exceptions.TimeoutError as error:
            raise SlowRetrievalError(f"nothing came for {self.terms.timeout_s} s") from error
        except BaseException:
            response.close()  # what was not read to its end is not read further: a body may be endless
            raise
        finally:
            response.release_conn()

    def _pace(self) -> None:
        """Waits until the rate allows a further request. Raises EdgedError when the budget does not."""
        with self._lock:
            if 0 <= self.terms.budget <= self.received:
                found = f"the {self.terms.budget} bytes that may be fetched for now are used up"
                raise EdgedError(Code.DOWNLOAD_FAILED, found, "it goes on where it is once there is a new budget")
            free_at = self._free_at
        while (wait_s := free_at - time.monotonic()) > 0:
            self._heartbeat(True)
            time.sleep(min(wait_s, _LONGEST_SLEEP_S))

    def _count(self, length: int) -> None:
        with self._lock:
            self.received += length
            if self.terms.rate:
                self._free_at = max(time.monotonic(), self._free_at) + length / self.terms.rate


def read_file(path: Path, url: str) -> Iterator[bytes]:
    """A file below a folder or stick; nothing that is a link there is followed, and no device is opened."""
    try:
        descriptor = inside.open_regular(path.parent, path.name)
    except FileNotFoundError as error:
        raise DownloadHTTPError(f"{url} does not exist", 404) from error
    except inside.UnfitError as error:
        status = 404 if isinstance(error.__cause__, FileNotFoundError) else 403
        raise DownloadHTTPError(f"{url} {error.what}", status) from error
    return _parts(descriptor)


def _parts(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb", buffering=0) as file:
        while part := file.read(_READ_BYTES):
            yield part


def _reason(error: Exception) -> str:
    """The last of the reasons that urllib3 wraps in each other, without the connection that it names."""
    inner: Any = error
    while isinstance(inner, urllib3.exceptions.MaxRetryError) and inner.reason is not None:
        inner = inner.reason
    text = str(inner)
    return text.partition("): ")[2] or text or type(inner).__name__
