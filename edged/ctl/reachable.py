"""Looks at what lies outside: broker, repository, and the secrets for them. `edgectl doctor` tells it.

Serving needs none of it, so what cannot be reached is a warning; what can never work as it is set is a fault.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edged.config import address
from edged.ctl.checkup import Finding, Grade, Subject
from edged.errors import EdgedError
from edged.system import identity

_LIMIT_S = 5.0

# Where systemd.exec(5), ImportCredential=, looks for what the unit asks for.
_STORES = (
    "etc/credstore",
    "etc/credstore.encrypted",
    "run/credstore",
    "run/credstore.encrypted",
    "usr/lib/credstore",
    "usr/lib/credstore.encrypted",
    "run/credentials/@system",
    "run/credentials/@encrypted",
)
_PASSWORD = "edged.mqtt-password"  # noqa: S105 - the credential's name


def credentials(subject: Subject) -> Iterator[Finding]:
    """The secrets that the settings ask for are there, and nobody else's to read."""
    found = [path for store in _STORES for path in sorted((subject.root / store).glob("edged.*"))]
    for path in found:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and "encrypted" not in path.parent.name:
            yield _fault("credentials", f"others may read the secret {path}", f"`chmod 0600 {path}`, and change it")
    if subject.settings.mqtt.username and _PASSWORD not in {path.name for path in found}:
        yield _fault(
            "credentials",
            f"mqtt.username is set, and there is no credential {_PASSWORD}",
            f"`systemd-creds encrypt - /etc/credstore.encrypted/{_PASSWORD}`, then `systemctl restart edged`",
        )


def broker(subject: Subject) -> Iterator[Finding]:
    """The broker takes a connection and, where it speaks TLS, shows who it is and takes our certificate."""
    if not subject.settings.mqtt.broker:
        return
    try:
        where = address.broker(subject.settings.mqtt.broker)
    except ValueError:
        return  # the settings' own check tells it
    paths = (subject.settings.mqtt.certificate, subject.settings.mqtt.key, subject.settings.mqtt.ca)
    context = None
    if where.tls:
        try:
            needed = not subject.settings.mqtt.username
            context = identity.tls(identity.Files(*map(subject.placed, paths)), subject.now, certificate_needed=needed)
        except EdgedError as error:
            yield _fault("broker", error.message, error.hint)
            return
    named = f"the broker {where.host}:{where.port}"
    try:
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(socket.create_connection((where.host, where.port), _LIMIT_S))
            if context is not None:
                stack.enter_context(context.wrap_socket(link, server_hostname=where.host))
    except ssl.SSLError as error:
        remedy = f"is {paths[2]} the authority that vouches for it, and the clock right?"
        yield _fault("broker", f"{named} and this device do not trust each other: {error.reason or error}", remedy)
    except OSError as error:
        remedy = "check mqtt.broker, the name service and the way there; what is told waits in the spool"
        yield _warning("broker", f"{named} cannot be reached: {error.strerror or error}", remedy)


def repository(subject: Subject) -> Iterator[Finding]:
    """The repository answers, and the root of trust is there by which it is believed."""
    url = subject.settings.update.repository
    if not url:
        return
    root = subject.placed(subject.settings.update.root)
    if not root.is_file():
        yield _fault(
            "repository",
            f"update.repository is set, and there is no root of trust at {root}",
            "put the fleet's root.json into the image there",
        )
    asked = f"{url.rstrip('/')}/metadata/timestamp.json"
    parts = urlsplit(asked)
    if parts.scheme == "file":
        if not Path(unquote(parts.path)).is_file():
            yield _fault("repository", f"{unquote(parts.path)} does not exist", "check update.repository")
        return
    try:
        with urllib.request.urlopen(asked, timeout=_LIMIT_S) as answer:  # noqa: S310 - https or http, as the settings allow
            answer.read(1)
    except urllib.error.HTTPError as error:
        yield _fault("repository", f"{asked} answers {error.code} {error.reason}", "check update.repository")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        remedy = "check update.repository, the name service, a proxy and the way there; what is installed serves on"
        yield _warning("repository", f"{asked} cannot be reached: {why}", remedy)


def _fault(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, Grade.FAULT, found, remedy)


def _warning(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, Grade.WARNING, found, remedy)


CHECKS = {"credentials": credentials, "broker": broker, "repository": repository}
"""By topic."""
