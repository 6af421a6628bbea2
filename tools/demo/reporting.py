"""The part of the tour that an operator sees from afar: what a broker was told, and a network that goes away."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import zstandard
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rich.console import Console

from edged.telemetry.messages import Event, Online, State, Telemetry
from tools.demo.asking import Load
from tools.demo.device import START_S, Device
from tools.demo.saying import lines, step

NAME = "till-7"
AWAY_S = 2.0
PATIENCE_S = 60.0


class Broker:
    """mosquitto, which may come and go, and an operator who has subscribed to everything."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest none\n"
            f"persistence true\npersistence_location {folder}/\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._came = threading.Condition()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="operator", protocol=MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("edged/1/#", qos=1)
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self.online = False
        self.state: State | None = None
        self.events: dict[tuple[int, int], Event] = {}
        self.windows: dict[tuple[int, int], Telemetry] = {}

    @property
    def installed(self) -> bool:
        """Whether there is one to be had."""
        return self._program is not None

    def known_by(self, root: Path) -> None:
        """Has the device below `root` report to it, each second instead of each hour."""
        settings = root / "etc/edged/edged.toml.d/mqtt.toml"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(
            f'[device]\nname = "{NAME}"\n[mqtt]\nbroker = "mqtt://127.0.0.1:{self.port}"\njitter_s = 0\n'
            'rows_per_minute = 6000\n[telemetry]\nwindow_s = 1\nsend = "windows"\n'
        )

    def start(self) -> None:
        """Starts it; the operator is there at once, or comes back by itself."""
        assert self._program
        self._process = subprocess.Popen([self._program, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                sys.exit(f"mosquitto did not start with {self._config}")
            time.sleep(0.05)
        if not self._client.is_connected():
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600  # what comes while the operator is away is kept
            self._client.connect("127.0.0.1", self.port, clean_start=False, properties=properties)
            self._client.loop_start()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Ends it, and with it every connection."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_S)
            self._process = None

    def end(self) -> None:
        """Ends the broker and the operator's connection."""
        self._client.disconnect()
        self._client.loop_stop()
        self.stop()

    def _take(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        kind, payload = message.topic.rpartition("/")[2], bytes(message.payload)
        with self._came:
            if kind == "online":
                self.online = msgspec.json.decode(payload, type=Online).online
            elif kind == "state":
                self.state = msgspec.json.decode(payload, type=State)
            elif kind == "event":
                event = msgspec.json.decode(payload, type=Event)
                self.events[event.epoch, event.last] = event
            elif kind == "telemetry":
                text = zstandard.ZstdDecompressor().decompress(payload, max_output_size=2**24)
                window = msgspec.json.decode(text, type=Telemetry)
                self.windows[window.epoch, window.last] = window
            self._came.notify_all()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Waits until the operator has seen it. Exits when that does not come."""
        with self._came:
            if not self._came.wait_for(condition, PATIENCE_S):
                sys.exit(f"the operator never saw {what}")

    def answered(self) -> Counter[int]:
        """Requests that the windows have counted, by revision."""
        found: Counter[int] = Counter()
        for each in self.windows.values():
            for model in each.window.models:
                found[model.revision] += model.codes.get("ok", 0)
        return found

    def settled(self) -> bool:
        """Whether the device has told how it stands since it has started, which it does at most every 5 s."""
        return self.state is not None and self.state.mode != "starting"

    def quiet(self) -> bool:
        """Whether all that was asked is counted: the newest window has nothing in it."""
        newest = self.windows[max(self.windows)] if self.windows else None
        return newest is not None and bool(newest.totals.models) and not newest.window.models


def watch(out: Console, device: Device, broker: Broker) -> None:
    """What the operator has seen of the tour, and a network that goes away and comes back."""
    if not broker.installed:
        step(out, "From afar", "left out: it needs mosquitto, or another broker that speaks MQTT v5")
        return
    broker.wait(broker.quiet, "the requests of the tour")
    broker.wait(broker.settled, "how the device stands since it has started again")
    counted, state = broker.answered(), broker.state
    step(out, f"What the operator has seen of {NAME}", f"through mosquitto on port {broker.port}")
    assert state is not None
    serving = ", ".join(f"{model.name} revision {model.revision} {model.state}" for model in state.models)
    by = ", ".join(f"{count} by revision {revision}" for revision, count in sorted(counted.items()))
    errors = sum(each.event.severity in ("warning", "error") for each in broker.events.values())
    lines(out, f"{'online' if broker.online else 'away'}, {state.mode}, at level {state.level}: {serving}")
    lines(out, f"{len(broker.windows)} windows of a second: {counted.total()} requests answered, {by}")
    lines(out, f"{len(broker.events)} events, {errors} of them warnings and errors")

    broker.stop()
    with Load(device) as load:
        time.sleep(AWAY_S)
    step(out, "The network goes away", load.told())
    told = device.edgectl("telemetry", fails=True).splitlines()
    lines(out, "\n".join(line for line in told if line.startswith(("broker", "waiting"))))
    broker.start()
    wanted = counted.total() + load.answered
    broker.wait(lambda: broker.answered().total() >= wanted, f"{wanted} requests")
    if broker.answered().total() != wanted:
        sys.exit(f"{broker.answered().total()} requests were counted, and {wanted} were answered")
    step(out, "The network comes back", f"the operator has counted every one of {wanted} requests, and none twice")
