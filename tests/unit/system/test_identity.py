"""Who a device is: a name that does not tell the machine id, and a certificate whose faults are named."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Code, EdgedError
from edged.system import identity
from edged.system.identity import Files

NOW = datetime.now(UTC)
MACHINE = "0123456789abcdef0123456789abcdef"


def root_with(tmp_path: Path, machine_id: str | None) -> Path:
    (tmp_path / "etc").mkdir()
    if machine_id is not None:
        (tmp_path / "etc/machine-id").write_text(machine_id)
    return tmp_path


def test_the_name_is_derived_as_systemd_derives_it(tmp_path):
    found = identity.device_id(root_with(tmp_path, f"{MACHINE}\n"))
    digest = hmac.new(bytes.fromhex(MACHINE), identity._APPLICATION, hashlib.sha256).digest()[:16]
    as_uuid = uuid.UUID(found)
    assert as_uuid == uuid.UUID(bytes=digest, version=4)
    assert MACHINE not in found


def test_another_machine_has_another_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = identity.device_id(root_with(tmp_path / "a", MACHINE))
    other = identity.device_id(root_with(tmp_path / "b", MACHINE[::-1]))
    assert one != other


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "0" * 32, MACHINE[:-1], "no hex at all"])
def test_without_a_machine_id_the_remedy_is_told(tmp_path, content):
    with pytest.raises(EdgedError, match=r"device\.name") as caught:
        identity.device_id(root_with(tmp_path, content))
    assert caught.value.code is Code.IDENTITY_INVALID


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Those of a device, in order."""
    return write(tmp_path, trustme.CA())


def write(folder: Path, ca: trustme.CA, **options: object) -> Files:
    found = Files(folder / "certificate.pem", folder / "key.pem", folder / "ca.pem")
    issued = ca.issue_cert("till-7.example", **options)
    found.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(found.key)
    ca.cert_pem.write_to_path(found.ca)
    return found


def refusal(files: Files, now: datetime = NOW) -> str:
    with pytest.raises(EdgedError) as caught:
        identity.tls(files, now, certificate_needed=True)
    assert caught.value.code is Code.IDENTITY_INVALID
    assert caught.value.hint, "it says what to do"
    return caught.value.message


def test_what_is_in_order_makes_a_context_that_verifies(files):
    context = identity.tls(files, NOW, certificate_needed=True)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_dates_are_those_of_the_certificate(files):
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    der = ssl.PEM_cert_to_DER_cert(files.certificate.read_text().split("-----END")[0] + "-----END CERTIFICATE-----\n")
    assert identity.validity(der) == (certificate.not_valid_before_utc, certificate.not_valid_after_utc)


@given(st.binary(max_size=300))
def test_noise_has_no_dates(data):
    with pytest.raises((ValueError, IndexError)):
        identity.validity(b"\x30" + data)


def test_an_expired_certificate_is_named_with_its_date(tmp_path):
    ended = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)
    files = write(tmp_path, trustme.CA(), not_after=ended, not_before=ended - timedelta(days=9))
    assert refusal(files) == f"{files.certificate} expired at 2024-05-06 07:08 UTC"


def test_a_certificate_of_the_future_says_that_the_clock_may_be_wrong(files):
    assert "and it is 1980-01-01" in refusal(files, datetime(1980, 1, 1, tzinfo=UTC))


def test_a_key_of_another_certificate_is_named(tmp_path, files):
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", trustme.CA())
    files.key.write_bytes(other.key.read_bytes())
    assert refusal(files).startswith(f"{files.key} is not the key of {files.certificate}")


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_what_is_missing_is_named(files, name):
    path = getattr(files, name)
    path.unlink()
    assert refusal(files).startswith(str(path))


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_what_is_no_pem_is_named(files, name):
    path = getattr(files, name)
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert str(path) in refusal(files)


def test_a_replaced_file_is_noticed(files, tmp_path):
    before = files.stamp()
    assert files.stamp() == before
    copy = tmp_path / "new"
    copy.write_bytes(files.certificate.read_bytes())
    copy.replace(files.certificate)
    assert files.stamp() != before


def test_the_password_is_a_credential(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert identity.password() is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert identity.password() is None
    (tmp_path / "edged.mqtt-password").write_text("pässword\n")
    assert identity.password() == "pässword"
