"""A real broker that takes less than a device sends, or wants to hear of it more often: both are obeyed."""

from __future__ import annotations

import asyncio
import random

import pytest
from support.broker import Mosquitto, Operator, Pki
from support.polling import until_async
from support.reporting import DEVICE, TOPICS, answered, ask, command, daemon_for, linked, telemetry_of, wait_telemetry

from edged.telemetry.messages import Happening
from edged.telemetry.mqtt import Mqtt
from edged.telemetry.spool import Spool

LIMIT = 3000


@pytest.mark.parametrize("setting", ["max_packet_size", "message_size_limit"])
def test_what_is_larger_than_the_broker_takes_holds_up_nothing_else(tmp_path, setting):
    broker = Mosquitto(tmp_path / "broker", Pki(tmp_path / "pki"))
    broker.configure(f"{setting} {LIMIT}\n")
    with broker, daemon_for(tmp_path, broker) as daemon, Operator(broker, tmp_path / "operator") as operator:
        spool = Spool(daemon.root / "var/lib/edged/telemetry", 2**23, 0)
        text = random.Random(1).randbytes(LIMIT).hex()
        spool.append_event(Happening(at_ms=1, severity="error", code="long", subject="digits", message=text), kept=True)
        spool.close()
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        ask(daemon, 3)
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == 3)
        told = operator.wait(
            lambda seen: [each for each in seen.all("event") if each["event"]["code"] == "broker_limit"]
        )
        assert len(told) == 1
        assert "have it take 128 KiB" in told[0]["event"]["message"]
        assert not [each for each in operator.all("event") if each["event"]["code"] == "long"]
        operator.wait(lambda seen: [each for each in seen.all("telemetry") if each["lost"] == {"events": 1}])
        standing = wait_telemetry(daemon, lambda found: found.lost.events == 1)
        assert (standing.connected, standing.problem) == (True, told[0]["event"]["message"])

        operator.publish(TOPICS.commands[0], command("diagnostics"))
        done = operator.wait(lambda seen: [each for each in seen.all("result") if each["status"] == "done"])
        assert done[0]["details"] == {"left_out": "too large"}
        operator.publish(TOPICS.commands[0], command("report"))
        operator.wait(lambda seen: [each for each in seen.all("result") if each["command"] == "report"])
        assert telemetry_of(daemon).connected
        assert broker.log().count(f"as {DEVICE} ") == 1, "one connection was enough"


async def test_a_keep_alive_that_the_broker_shortens_holds(tmp_path):
    broker = Mosquitto(tmp_path / "broker", Pki(tmp_path / "pki"))
    broker.configure("max_keepalive 10\n")  # the shortest that mosquitto knows
    options = linked(broker, tmp_path / "identity")
    changed = asyncio.Event()
    with broker:
        link = Mqtt(options, lambda session: session.encode(), changed.set, lambda _message: None, pytest.fail)
        link.start()
        try:
            await until_async(lambda: link.connected, "it is connected", log=broker.log)
            session = link.session
            await until_async(lambda: f"Received PINGREQ from {DEVICE}" in broker.log(), "it pings", log=broker.log)
            assert (link.connected, link.session) == (True, session)
        finally:
            await link.stop()
