"""Who this device is: its name, and the certificate that proves it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edged.config.settings import Settings
from edged.errors import Code, EdgedError

# The application id of edged for sd_id128_get_machine_app_specific(3); another one would rename every device.
_APPLICATION = bytes.fromhex("7d0f4c52f1c64a0f9a3e64c1d6b2e85b")

_HANDSHAKE_S = 15.0
_MAX_FILE_BYTES = 256 * 1024
_MAX_PASSWORD_BYTES = 4096

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def device_id(root: Path = Path("/")) -> str:
    """A name derived from the machine id as systemd does, which does not tell the machine id itself.

    HMAC-SHA256 of the application id under the machine id, cut to 16 bytes and made a version 4 UUID, in hex:
    https://www.freedesktop.org/software/systemd/man/latest/sd_id128_get_machine.html. Raises EdgedError
    (identity_invalid) where there is no machine id.
    """
    path = root / "etc/machine-id"
    try:
        machine = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise _invalid(f"{path} holds no machine id", "run `systemd-machine-id-setup`, or set device.name") from error
    if len(machine) != 16 or not any(machine):
        raise _invalid(f"{path} holds no machine id", "run `systemd-machine-id-setup`, or set device.name")
    derived = bytearray(hmac.digest(machine, _APPLICATION, hashlib.sha256)[:16])
    derived[6] = derived[6] & 0x0F | 0x40
    derived[8] = derived[8] & 0x3F | 0x80
    return derived.hex()


def named(settings: Settings, root: Path) -> Settings:
    """The settings with the device's name in them: the one that they give, else the derived one where there is one."""
    if settings.device.name:
        return settings
    try:
        name = device_id(root)
    except EdgedError:  # who needs the name says so
        return settings
    return msgspec.structs.replace(settings, device=msgspec.structs.replace(settings.device, name=name))


class Files(msgspec.Struct, frozen=True):
    """Where the certificate and its key are, and who may vouch for others."""

    certificate: Path
    key: Path
    ca: Path

    def stamp(self) -> tuple[int, ...]:
        """Differs when one of the files was replaced."""
        found = []
        for path in (self.certificate, self.key, self.ca):
            try:
                status = path.stat()
            except OSError:
                found += [0, 0]
            else:
                found += [status.st_mtime_ns, status.st_ino]
        return tuple(found)


class _Context(ssl.SSLContext):
    """One whose handshakes have a limit of their own."""

    def wrap_socket(self, sock: Any, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """As the base class does, the handshake done."""
        made = super().wrap_socket(sock, *arguments, **options)
        made.settimeout(_HANDSHAKE_S)
        try:
            made.do_handshake()
        except BaseException:
            made.close()
            raise
        return made


def tls(files: Files, now: datetime, *, certificate_needed: bool) -> ssl.SSLContext:
    """How to speak TLS with the files as they are now.

    Raises EdgedError (identity_invalid) naming what is missing, expired or mismatched, and the remedy.
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.ca.exists():
        try:
            context.load_verify_locations(files.ca)
        except (OSError, ssl.SSLError) as error:
            raise _invalid(
                f"{files.ca} holds no certificates: {_why(error)}", "put the authority's PEM there"
            ) from error
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if not certificate_needed and not files.certificate.exists():
        return context
    ends = _valid_until(files.certificate, now)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ssl.SSLError) as error:
        if not files.key.exists():
            raise _invalid(f"{files.key} is missing", "put the certificate's private key there") from error
        found = f"{files.key} is not the key of {files.certificate}: {_why(error)}"
        raise _invalid(found, "put the key there that the certificate was made for, not encrypted") from error
    assert ends > now  # noqa: S101 - _valid_until has said so
    return context


def _valid_until(path: Path, now: datetime) -> datetime:
    try:
        with path.open("rb") as file:
            pem = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        remedy = "enroll this device, or put its certificate there"
        raise _invalid(f"{path} cannot be read: {error.strerror}", remedy) from error
    found = _PEM.search(pem)
    try:
        if found is None:
            raise ValueError("no certificate")
        begins, ends = validity(base64.b64decode(found[1]))
    except (ValueError, IndexError) as error:
        raise _invalid(f"{path} holds no certificate", "put the device's certificate there, as PEM") from error
    if ends <= now:
        raise _invalid(f"{path} expired at {ends:%Y-%m-%d %H:%M} UTC", "renew the certificate, or set the clock right")
    if begins > now:
        found_text = f"{path} holds from {begins:%Y-%m-%d %H:%M} UTC on, and it is {now:%Y-%m-%d %H:%M} UTC here"
        raise _invalid(found_text, "set the clock right")
    return ends


def validity(der: bytes) -> tuple[datetime, datetime]:
    """From when until when an X.509 certificate holds, RFC 5280 section 4.1. Raises ValueError or IndexError.

    The front imports no library of cryptography for two dates.
    """
    body, _ = _element(_element(der, 0)[0], 0)  # Certificate → TBSCertificate
    position = 0
    fields: list[bytes] = []
    while position < len(body) and len(fields) < 6:
        tag = body[position]
        content, position = _element(body, position)
        if tag != 0xA0:  # the version, which may be left out
            fields.append(content)
    dates, position = [], 0  # serialNumber, signature, issuer, validity
    while position < len(fields[3]):
        kind = fields[3][position]
        text, position = _element(fields[3], position)
        form = "%y%m%d%H%M%SZ" if kind == 0x17 else "%Y%m%d%H%M%SZ"
        dates.append(datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC))
    begins, ends = dates
    return begins, ends


def _element(data: bytes, position: int) -> tuple[bytes, int]:
    """The content of the DER element at `position`, and where the next begins."""
    length, position = data[position + 1], position + 2
    if length & 0x80:
        count = length & 0x7F
        length, position = int.from_bytes(data[position : position + count], "big"), position + count
    if position + length > len(data):
        raise ValueError("it is cut off")
    return data[position : position + length], position + length


def password() -> str | None:
    """The broker's password from the service manager's credential `edged.mqtt-password`; None where there is none."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    try:
        with (Path(folder) / "edged.mqtt-password").open("rb") as file:
            return file.read(_MAX_PASSWORD_BYTES).decode().rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return None


def _why(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _invalid(found: str, remedy: str) -> EdgedError:
    return EdgedError(Code.IDENTITY_INVALID, found, remedy)
