"""The Update Framework's client as edged runs it: what it keeps is durable, its time is trusted, its floors hold.

python-tuf does the verification. Here stand the three things that a device needs beyond it:

- Time. Metadata has an expiry but no issue time, and a device's clock may say anything. Now is the largest of the
  system time, the image's build time, and the newest `x-edged-issued` of a timestamp that was accepted. Only the last
  is kept, with the keys that signed it, and counts while root still names one of them.
- Floors. The caller may know from elsewhere which version of each role was accepted last; a lost cache then undoes
  no rollback protection. A floor counts while the role has the same keys, as the specification wants after a
  fast-forward (5.3.11); that of root always.
- Durability. Each file that is kept goes through `durable`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib import parse

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater

from edged import clock, durable
from edged.errors import Code, EdgedError
from edged.update.issued import Issued, keep, recall
from edged.update.transport import Transport

ISSUED_FIELD = "x-edged-issued"
"""In the signed part of a timestamp: when it was signed, ISO 8601 with its zone."""

# Beside the metadata.
_KEPT_NAME = "kept"


class Trusted(Updater):
    """The verified view of a repository. Use it once: one time holds for the whole of a refresh."""

    def __init__(
        self,
        folder: Path,
        url: str,
        transport: Transport,
        *,
        root: bytes | None,
        system_time: datetime,
        build_time: datetime | None = None,
        floors: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` keeps the metadata; `url` is where it comes from.

        `root`: the root of trust, None for the one kept from the time before. `floors`: by role what `accepted` told
        before. Raises EdgedError where the root of trust is none.
        """
        self.folder = folder
        self.now = clock.trusted(system_time, build_time)
        """The time that expiries are held against."""
        self._transport = transport
        self._floors = dict(floors or {})
        self._asked: set[str] = set()
        (folder / "root_history").mkdir(parents=True, exist_ok=True)
        with as_edged_errors("the root of trust"):
            super().__init__(str(folder), url, fetcher=transport, bootstrap=root)

    def refresh(self) -> None:
        """Brings the top-level roles up to date. Raises EdgedError with the reason."""
        with as_edged_errors(self._metadata_base_url):
            super().refresh()
            self._hold_floors()

    def target(self, path: str, url: str, limit: int, copy: Path | None = None) -> bytes | None:
        """The content of a target, verified, of at most `limit` bytes; None where there is none of that path.

        `url` is where targets lie. `copy` is a file that may hold it from the time before, and holds it afterwards.
        Raises EdgedError.
        """
        with as_edged_errors(path):
            found = self.get_targetinfo(path)
            self._hold_floors()
            if found is None:
                return None
            if found.length > limit:
                raise exceptions.LengthOrHashMismatchError(f"{path} has {found.length} bytes, more than {limit}")
            if copy is not None and (known := _copied(copy, found)) is not None:
                return known
            folder, slash, name = path.rpartition("/")
            prefixed = self._trusted_set.root.consistent_snapshot
            prefix = f"{next(iter(found.hashes.values()))}." if prefixed else ""
            content = self._transport.download_bytes(f"{url.rstrip('/')}/{folder}{slash}{prefix}{name}", found.length)
            found.verify_length_and_hashes(content)
            if copy is not None:
                copy.parent.mkdir(exist_ok=True)
                durable.write(copy, content)
            return content

    def kept(self, path: str, url: str, limit: int) -> bytes | None:
        """As `target`, for what is asked for at each poll: a copy stays beside the metadata."""
        copy = self.folder / _KEPT_NAME / parse.quote(path, "")
        self._asked.add(copy.name)
        return self.target(path, url, limit, copy)

    def forget(self) -> None:
        """Removes the copies that were not asked for this time. Raises OSError."""
        for copy in (self.folder / _KEPT_NAME).glob("*"):
            if copy.name not in self._asked:
                copy.unlink()

    def listed(self) -> list[str]:
        """Every target that the repository lists, whoever signs it; all roles are read. Raises EdgedError."""
        found: set[str] = set()
        roles = [(Targets.type, Root.type)]
        with as_edged_errors(self._metadata_base_url):
            while roles:
                role, delegator = roles.pop()
                targets = self._load_targets(role, delegator)
                found.update(targets.targets)
                delegations = targets.delegations
                if delegations and delegations.roles:
                    roles += [(name, role) for name in delegations.roles]
                if delegations and delegations.succinct_roles:
                    roles += [(name, role) for name in delegations.succinct_roles.get_roles()]
        return sorted(found)

    @property
    def issued(self) -> datetime | None:
        """The newest time at which a timestamp that still counts was issued; None where none told."""
        recalled = recall(self.folder)
        known = set(self._trusted_set.root.roles[Timestamp.type].keyids)
        return recalled.at if recalled and known.intersection(recalled.keys) else None

    def expires(self) -> dict[str, datetime]:
        """When the signature of each role that was read ends."""
        return {role: self._trusted_set[role].expires for role, _, _ in self._trusted()}

    def accepted(self) -> dict[str, str]:
        """By role, the version now trusted and a mark of the keys it was trusted by: floors for the next time."""
        return {role: f"{version}:{mark}" for role, version, mark in self._trusted()}

    def _trusted(self) -> Iterator[tuple[str, int, str]]:
        trusted: Any = self._trusted_set
        for delegator, role in sorted(trusted._trusted_delegations):  # noqa: SLF001 - nothing else tells who delegated
            delegated = trusted[delegator].get_delegated_role(role)
            mark = hashlib.sha256("\0".join(sorted(delegated.keyids)).encode()).hexdigest()[:16]
            yield role, trusted[role].version, mark

    def _hold_floors(self) -> None:
        for role, version, mark in self._trusted():
            floor, _, of_keys = self._floors.get(role, "").partition(":")
            if floor.isdecimal() and version < int(floor) and (mark == of_keys or role == Root.type):
                found = f"{role} has version {version}, and {floor} was accepted before"
                raise exceptions.BadVersionNumberError(found)

    def _load_root(self) -> None:
        super()._load_root()
        self.now = clock.trusted(self.now, self.issued)
        self._trusted_set.reference_time = self.now

    def _load_timestamp(self) -> None:
        super()._load_timestamp()
        issued = _issued(self._trusted_set.timestamp)
        if issued is None:
            return
        if issued > self.now:
            # The device's clock is behind: what is old by the repository's own time is old.
            self.now = self._trusted_set.reference_time = issued
            if self._trusted_set.root.is_expired(issued):
                raise exceptions.ExpiredMetadataError("root.json is expired")
        recalled = recall(self.folder)
        if recalled is None or recalled.at < issued or recalled.at > self.now:
            self._keep(issued)

    def _keep(self, issued: datetime) -> None:
        metadata = Metadata[Timestamp].from_bytes(self._load_local_metadata(Timestamp.type))
        root = self._trusted_set.root
        signed = root.get_verification_result(Timestamp.type, metadata.signed_bytes, metadata.signatures).signed
        keep(self.folder, Issued(issued, tuple(sorted(signed))))

    def _persist_file(self, filename: str, data: bytes) -> None:
        durable.write(Path(filename), data, mode=0o644)

    def _update_root_symlink(self) -> None:
        link = self.folder / "root.json"
        target = Path("root_history", f"{self._trusted_set.root.version}.root.json")
        if link.is_symlink() and link.readlink() == target:
            return
        passing = self.folder / ".root.json"
        passing.unlink(missing_ok=True)
        passing.symlink_to(target)
        durable.place(passing, link)


def _copied(copy: Path, wanted: TargetFile) -> bytes | None:
    """What a file holds, where that is what is signed."""
    try:
        content = copy.read_bytes()
        wanted.verify_length_and_hashes(content)
    except (OSError, exceptions.RepositoryError):
        return None
    return content


def _issued(timestamp: Timestamp) -> datetime | None:
    """When a timestamp says that it was signed; None where it says nothing that can be read."""
    try:
        found = datetime.fromisoformat(timestamp.unrecognized_fields[ISSUED_FIELD])
        return found.astimezone(UTC) if found.tzinfo else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


_EXPIRED_HINT = "serving goes on; have it renewed with `edgectl fleet renew`, and look at the device's clock"
_ROLLED_BACK_HINT = "it is an old copy, or somebody replays one; bring a newer one"
_UNTRUSTED_HINT = "nothing of it is used; see `edgectl fleet verify`"
_FAILED_HINT = "it is tried again later"


@contextmanager
def as_edged_errors(what: str) -> Iterator[None]:
    """Turns the client's errors into EdgedError, whose code says what is to blame: the repository or the way to it."""
    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise EdgedError(Code.METADATA_EXPIRED, f"{what}: {error}", _EXPIRED_HINT) from error
    except exceptions.BadVersionNumberError as error:
        raise EdgedError(Code.ROLLBACK_ATTACK, f"{what}: {error}", _ROLLED_BACK_HINT) from error
    except DeserializationError as error:
        found = f"{what}: what came is no metadata"
        raise EdgedError(Code.DOWNLOAD_FAILED, found, "a web page in its place is a proxy's or a sign-in's") from error
    except exceptions.RepositoryError as error:
        raise EdgedError(Code.SIGNATURE_INVALID, f"{what}: {error}", _UNTRUSTED_HINT) from error
    except exceptions.DownloadError as error:
        said = str(error) or type(error).__name__
        found = said if what in said else f"{what}: {said}"
        raise EdgedError(Code.DOWNLOAD_FAILED, found, _FAILED_HINT) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"{what}: what came is no metadata: {type(error).__name__}"
        raise EdgedError(Code.SIGNATURE_INVALID, found, _UNTRUSTED_HINT) from error
