"""Looks at certificates and keys that the settings name: readable, matching, valid now. `edgectl doctor` tells it."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from edged.ctl.checkup import Finding, Grade, Subject

# Who mends it may need some days.
_SOON = timedelta(days=14)


def check(subject: Subject) -> Iterator[Finding]:
    """The three files of TLS over TCP."""
    listen = subject.settings.listen
    if not listen.tls_certificate:
        return
    certificate, key, authority = (
        subject.placed(path) for path in (listen.tls_certificate, listen.tls_key, listen.tls_client_ca)
    )
    unreadable = [path for path in (certificate, key, authority) if not path.is_file()]
    for path in unreadable:
        yield _fault(f"{path} is not there", "put it there, or empty listen.tls_certificate and its two companions")
    if unreadable:
        return
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield _fault(f"everybody may read the private key {key}", f"`chmod 0600 {key}`, and have it replaced")
    yield from _validity(certificate, subject.now)
    yield from _validity(authority, subject.now)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        yield _fault(f"{key} does not belong to {certificate}: {error}", "replace both together")


def _validity(path: Path, now: datetime) -> Iterator[Finding]:
    from cryptography import x509  # here, since it takes a while and few devices need it

    try:
        held = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        yield _fault(f"{path} holds no certificate in PEM form", "replace it")
        return
    for found in held:
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        if now < begins:
            yield _fault(f"{path} is valid from {begins:%Y-%m-%d} on, and it is {now:%Y-%m-%d}", "is the clock right?")
        elif now > ends:
            yield _fault(f"{path} expired on {ends:%Y-%m-%d}", "renew it")
        elif now + _SOON > ends:
            yield Finding("certificates", Grade.WARNING, f"{path} expires on {ends:%Y-%m-%d}", "renew it")


def _fault(found: str, remedy: str) -> Finding:
    return Finding("certificates", Grade.FAULT, found, remedy)
