"""A real mosquitto with TLS and an ACL, an operator's client, and the identity of a device."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
import zstandard
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from support.deliveries import Deliveries
from support.polling import PATIENCE_S, until
from support.ports import free_port


class Pki:
    """An authority, the broker's certificate, and those of devices."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)
        self.certificate, self.key = folder / "broker.pem", folder / "broker-key.pem"
        self._write(self._ca.issue_cert("127.0.0.1", "localhost", Island.ADDRESS), self.certificate, self.key)

    def identity(self, folder: Path, name: str, **options: Any) -> Path:
        """The three files of a device called `name`."""
        folder.mkdir(parents=True, exist_ok=True)
        issued = self._ca.issue_cert(f"{name}.example", common_name=name, **options)
        self._write(issued, folder / "certificate.pem", folder / "key.pem")
        shutil.copy(self.ca, folder / "ca.pem")
        return folder

    @staticmethod
    def _write(issued: trustme.LeafCert, certificate: Path, key: Path) -> None:
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)


ACL = """
pattern readwrite edged/1/shops/devices/%u/#
pattern read edged/1/shops/classes/#
pattern read edged/1/shops/command
pattern write edged/1/shops/operators/#
user operator
topic readwrite edged/1/#
"""


class Mosquitto:
    """A broker where a certificate's common name is the user, with one listener for devices and one for operators: what
    befalls the first leaves the second alone."""

    def __init__(self, folder: Path, pki: Pki, island: Island | None = None, settings: str = "") -> None:
        """On 127.0.0.1, or on an island; `settings`: more lines of its configuration, for devices."""
        if not (program := shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")):
            pytest.skip("mosquitto is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._program = program
        self.pki = pki
        self.host = island.ADDRESS if island else "127.0.0.1"
        self.port, self.operators_port = free_port(), free_port()
        if island:
            island.port = self.port
        self._inside = ["ip", "netns", "exec", island.name] if island else []
        self.log_file = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        (folder / "acl").write_text(ACL)
        (folder / "acl").chmod(0o644)
        tls = f"cafile {pki.ca}\ncertfile {pki.certificate}\nkeyfile {pki.key}\n"
        known = f"acl_file {folder / 'acl'}\n"
        by_certificate = "require_certificate true\nuse_identity_as_username true\n"
        self._config.write_text(
            f"per_listener_settings true\nmax_queued_messages 100000\n"
            f"listener {self.port} {self.host}\n{tls}{known}{settings or by_certificate}"
            f"listener {self.operators_port} {self.host}\n{tls}{known}{by_certificate}"
            f"user root\nlog_type all\nlog_dest file {self.log_file}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtts://{self.host}:{self.port}"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def configure(self, settings: str) -> None:
        """More lines of its configuration, from the next start on."""
        self._config.write_text(settings + self._config.read_text())

    def start(self) -> Mosquitto:
        self.process = subprocess.Popen(
            [*self._inside, self._program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._is_up, "the broker takes connections", log=self.log)
        return self

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            socket.create_connection((self.host, self.operators_port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """At once, with whatever it had in memory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """In order: it writes down what it has, where it is told to."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
            self.process = None

    def __enter__(self) -> Mosquitto:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()


class Operator:
    """Subscribes to everything of the fleet in a session that lasts, and keeps what comes."""

    def __init__(self, broker: Mosquitto, folder: Path, topics: str = "edged/1/#") -> None:
        files = broker.pki.identity(folder, "operator")
        self.got: list[MQTTMessage] = []
        self.deliveries = Deliveries()
        self.subscribed = 0
        """How often the broker has said so: once for each connection."""
        self._came = threading.Condition()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="operator", protocol=MQTTv5)
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        context.load_cert_chain(files / "certificate.pem", files / "key.pem")
        self._client.tls_set_context(context)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self._client.on_subscribe = self._ready
        self._client.on_message = self._take
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect(broker.host, broker.operators_port, clean_start=False, properties=properties)
        self._client.loop_start()
        self.wait(lambda seen: seen.subscribed)

    def _ready(self, *_: object) -> None:
        with self._came:
            self.subscribed += 1
            self._came.notify_all()

    def _take(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._came:
            self.got.append(message)
            kind = message.topic.rpartition("/")[2]
            if kind in ("telemetry", "event"):
                self.deliveries.take(kind, read(message))
            self._came.notify_all()

    def wait(self, condition: Callable[[Operator], Any], limit_s: float = PATIENCE_S) -> Any:
        """Waits until `condition` gives something, and gives that."""
        with self._came:
            found = self._came.wait_for(lambda: condition(self), limit_s)
        assert found, [f"{message.topic}: {message.payload[:80]!r}" for message in self.got[-20:]]
        return found

    def all(self, name: str) -> list[dict[str, Any]]:
        """The messages whose topic ends with `name`, read."""
        return [read(message) for message in self.got if message.topic.endswith(f"/{name}")]

    def publish(
        self, topic: str, payload: bytes, *, response_topic: str = "", correlation: bytes = b"", retain: bool = False
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if response_topic:
            properties.ResponseTopic = response_topic
            properties.CorrelationData = correlation
        self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(message: MQTTMessage) -> dict[str, Any]:
    payload = bytes(message.payload)
    if ("content-encoding", "zstd") in getattr(message.properties, "UserProperty", ()):
        payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=2**24)
    return msgspec.json.decode(payload)


class Island:
    """A network namespace with a wire to this one, where a broker can be cut off."""

    # Of this process alone: several may run at once.
    _NETWORK = ipaddress.ip_address("10.231.0.0") + os.getpid() % 2**14 * 4
    _OURS, ADDRESS = str(_NETWORK + 1), str(_NETWORK + 2)

    def __init__(self) -> None:
        self.name = f"edged{os.getpid()}"
        self._wire = f"eg{os.getpid()}"
        self.port = 0
        """Where the broker on it listens for devices."""
        if os.geteuid() or not all(map(shutil.which, ("ip", "iptables"))):
            pytest.skip("network namespaces need root, ip and iptables")

    def __enter__(self) -> Island:
        made = self._ip("netns", "add", self.name)
        if made.returncode:
            pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
        try:
            for line in (
                f"link add {self._wire} type veth peer name far netns {self.name}",
                f"addr add {self._OURS}/30 dev {self._wire}",
                f"link set {self._wire} up",
                f"-n {self.name} addr add {self.ADDRESS}/30 dev far",
                f"-n {self.name} link set far up",
                f"-n {self.name} link set lo up",
            ):
                done = self._ip(*line.split())
                assert done.returncode == 0, (line, done.stderr)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ip("link", "del", self._wire)
        self._ip("netns", "del", self.name)

    def drop(self) -> None:
        """What devices send vanishes; what they are sent arrives."""
        self._tables("-A", "INPUT", *self._devices, "-j", "DROP")

    def half_open(self) -> None:
        """Nothing arrives on either side, and nobody is told: both believe to be connected."""
        self.drop()
        self._tables("-A", "OUTPUT", "-p", "tcp", "--sport", str(self.port), "-j", "DROP")

    def reset(self) -> None:
        """Connections are reset."""
        self._tables("-A", "INPUT", *self._devices, "-j", "REJECT", "--reject-with", "tcp-reset")

    def lose(self, share: float) -> None:
        """So many of the packets that devices send vanish."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", str(share))
        self._tables("-A", "INPUT", *self._devices, *chance, "-j", "DROP")

    def heal(self) -> None:
        """All is well again."""
        self._tables("-F", "INPUT")
        self._tables("-F", "OUTPUT")

    def count(self) -> None:
        """Begins to count what devices and broker send each other; an operator's part is not in it."""
        self._tables("-t", "mangle", "-A", "INPUT", *self._devices)
        self._tables("-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "--sport", str(self.port))

    def carried(self) -> int:
        """Bytes since `count`, IP and TCP headers as well."""
        told = self._tables("-t", "mangle", "-nvxL")
        return sum(int(line.split()[1]) for line in told.splitlines() if f"pt:{self.port}" in line)

    @property
    def _devices(self) -> tuple[str, ...]:
        return ("-p", "tcp", "--dport", str(self.port))

    def _tables(self, *arguments: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, "iptables", *arguments], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"iptables does not work here: {done.stderr.strip()}")
        return done.stdout

    @staticmethod
    def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", *arguments], capture_output=True, text=True)
