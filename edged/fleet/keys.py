"""Private keys: ed25519 as PKCS#8 in PEM, encrypted, one file each: `<role>-<first 16 letters of the key's id>.pem`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from edged import durable
from edged.errors import Code, EdgedError

_NAME = re.compile(r"([a-z]+)-([0-9a-f]{16})\.pem", re.ASCII)
_LEAST_LENGTH = 8
_GIVE_HINT = "give it in EDGED_FLEET_PASSPHRASE or with --passphrase-file"

Ask = Callable[[str], str]
"""Asks a person for a passphrase; what for is told."""


class Ring:
    """The keys in one folder. A passphrase that opened one is tried on the others before anybody is asked."""

    def __init__(self, folder: Path, passphrases: Sequence[str], ask: Ask | None) -> None:
        """`ask` is None where nobody is there to be asked."""
        self.folder = folder
        self._known = list(passphrases)
        self._ask = ask
        self._opened: dict[Path, CryptoSigner] = {}
        self._made: dict[Path, bytes] = {}

    def make(self, role: str) -> SSlibKey:
        """Makes a key for a role, and gives its public half; `keep` writes it."""
        passphrase = self._known[0] if self._known else self._asked(f"a new passphrase for the key of {role}")
        if len(passphrase) < _LEAST_LENGTH:
            found = f"the passphrase for {role} is shorter than {_LEAST_LENGTH} letters"
            raise EdgedError(Code.KEY_UNUSABLE, found, "take a longer one")
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        public = signer.public_key
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
        path = self._path(role, public.keyid)
        self._made[path] = pem
        self._opened[path] = signer
        if passphrase not in self._known:
            self._known.append(passphrase)
        return public

    def keep(self) -> None:
        """Writes the keys that were made. Raises OSError."""
        while self._made:
            path, pem = next(iter(self._made.items()))
            durable.write(path, pem, mode=0o600)
            del self._made[path]

    def has(self, role: str, keyid: str) -> bool:
        """Whether the private half of a key is here. Raises EdgedError (not_permitted)."""
        return self._path(role, keyid) in self._paths()

    def of_role(self, role: str, but: Collection[str] = ()) -> list[CryptoSigner]:
        """Every key here that is named for a role, but those of these ids.

        Raises EdgedError (key_unusable, not_permitted).
        """
        signed = {keyid[:16] for keyid in but}
        found = ((path, _NAME.fullmatch(path.name)) for path in sorted(self._paths()))
        return [self._open(path) for path, named in found if named and named[1] == role and named[2] not in signed]

    def signer(self, role: str, keyid: str) -> CryptoSigner:
        """The private half of a key. Raises EdgedError (key_unusable, not_permitted)."""
        signer = self._open(self._path(role, keyid))
        if signer.public_key.keyid != keyid:
            found = f"{self._path(role, keyid)} holds another key than its name says"
            raise EdgedError(Code.KEY_UNUSABLE, found, "bring the key itself")
        return signer

    def _paths(self) -> set[Path]:
        try:
            return {*self.folder.iterdir(), *self._made}
        except FileNotFoundError:
            return set(self._made)
        except PermissionError as error:
            raise _not_permitted(self.folder) from error

    def _path(self, role: str, keyid: str) -> Path:
        return self.folder / f"{role}-{keyid[:16]}.pem"

    def _open(self, path: Path) -> CryptoSigner:
        if path in self._opened:
            return self._opened[path]
        private, passphrase = unlock(path, self._known, self._ask)
        if not passphrase:
            found = f"{path}: is not encrypted"
            raise EdgedError(Code.KEY_UNUSABLE, found, "a key that lies open is no key: rotate it")
        if passphrase not in self._known:
            self._known.append(passphrase)
        self._opened[path] = CryptoSigner(private)
        return self._opened[path]

    def _asked(self, what: str) -> str:
        if self._ask is None:
            raise EdgedError(Code.KEY_UNUSABLE, f"{what} is not known, and nobody is there to ask", _GIVE_HINT)
        return self._ask(what)


def unlock(path: Path, known: Sequence[str], ask: Ask | None) -> tuple[Ed25519PrivateKey, str]:
    """The private key in a file, and the passphrase that opened it; an empty one where it lies open.

    Those that are `known` are tried, then somebody is asked. Raises EdgedError (key_unusable, not_permitted).
    """
    try:
        pem = path.read_bytes()
    except PermissionError as error:
        raise _not_permitted(path) from error
    except OSError as error:
        raise EdgedError(Code.KEY_UNUSABLE, f"{path}: {error.strerror}", "bring the key there") from error
    for passphrase in ("", *known):
        if private := _unlocked(path, pem, passphrase):
            return private, passphrase
    if ask is None:
        what = "none of the passphrases given opens it" if known else "its passphrase is not known"
        raise EdgedError(Code.KEY_UNUSABLE, f"{path}: {what}, and nobody is there to ask", _GIVE_HINT)
    passphrase = ask(f"the passphrase of {path}")
    if private := _unlocked(path, pem, passphrase):
        return private, passphrase
    raise EdgedError(Code.KEY_UNUSABLE, f"{path}: the passphrase is wrong", "try again")


def _unlocked(path: Path, pem: bytes, passphrase: str) -> Ed25519PrivateKey | None:
    """None where another passphrase would open it."""
    try:
        private = load_pem_private_key(pem, passphrase.encode() or None)
    except TypeError:  # it is encrypted, or it is not
        return None
    except ValueError as error:
        if passphrase:
            return None
        raise EdgedError(Code.KEY_UNUSABLE, f"{path}: is no private key in PEM", "bring the key itself") from error
    if not isinstance(private, Ed25519PrivateKey):
        hint = "`openssl genpkey -algorithm ed25519` makes one"
        raise EdgedError(Code.KEY_UNUSABLE, f"{path}: is no ed25519 key", hint)
    return private


def _not_permitted(path: Path) -> EdgedError:
    return EdgedError(Code.NOT_PERMITTED, f"{path} may not be read by you", "try again as its owner, or with sudo")


def public_hex(pem: bytes, name: str) -> str:
    """The 32 bytes of an ed25519 public key in PEM, in hex. Raises EdgedError (key_unusable)."""
    try:
        public = load_pem_public_key(pem)
    except ValueError as error:
        raise EdgedError(Code.KEY_UNUSABLE, f"{name}: is no public key in PEM", "`openssl pkey -pubout`") from error
    if not isinstance(public, Ed25519PublicKey):
        raise EdgedError(Code.KEY_UNUSABLE, f"{name}: is no ed25519 key", "`openssl genpkey -algorithm ed25519`")
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
