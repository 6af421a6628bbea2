"""`edgectl fleet command`: signs a command, sends it, and shows what the devices answer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click
import msgspec

from edged import clock
from edged.config import address
from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import Number
from edged.ctl.output import Column, Table
from edged.ctl.words import safe
from edged.fleet.opened import asker, given, passphrases
from edged.fleet.operators import COMMANDS

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _arguments(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is no NAME=VALUE; give one such as model=digits")
        found[name] = text
    return found


def _broker(_context: click.Context, _parameter: click.Parameter, value: str) -> address.Broker:
    try:
        return address.broker(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}; give one such as mqtts://broker.example:8883") from error


@click.command("command")
@common
@passphrases
@click.argument("name", metavar="COMMAND", type=click.Choice(COMMANDS))
@click.argument("arguments", metavar="[NAME=VALUE]...", nargs=-1, callback=_arguments)
@click.option("--fleet-name", "fleet", required=True, metavar="NAME", help="The fleet's name.")
@click.option("--device", default="", metavar="DEVICE", help="Only this device.")
@click.option("--class", "hardware_class", default="", metavar="CLASS", help="Only devices of this class.")
@click.option("--key", type=_FILE, required=True, metavar="FILE", help="Your private key, as PEM.")
@click.option("--broker", required=True, metavar="URL", callback=_broker, envvar="EDGED_BROKER", help="The broker.")
@click.option(
    "--broker-ca", "ca", type=_FILE, metavar="FILE", help="Who vouches for the broker.  [default: the system]"
)
@click.option("--broker-cert", "certificate", type=_FILE, metavar="FILE", help="Your certificate for the broker.")
@click.option("--broker-key", "private", type=_FILE, metavar="FILE", help="The key of that certificate.")
@click.option(
    "--valid",
    "valid_s",
    type=Number(1, 86_400, whole=True),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How long a device that is away may still obey it.",
)
@click.option(
    "--wait", "wait_s", type=Number(0, 86_400), default=30, show_default=True, metavar="SECONDS", help="For answers."
)
@click.pass_obj
def command(
    asked: Asked,
    name: str,
    arguments: dict[str, str],
    fleet: str,
    device: str,
    hardware_class: str,
    key: Path,
    broker: address.Broker,
    ca: Path | None,
    certificate: Path | None,
    private: Path | None,
    valid_s: int,
    wait_s: float,
    passphrase_file: Path | None,
) -> int:
    """Sign a command, send it through the broker, and show the answers.

    Your public key stands in the fleet's operators (`edgectl fleet operators add`). With neither --device nor
    --class it is for every device of the fleet. For one device it ends with that one's answer, else when the wait is
    over.

    Exit status: 0 when something was done and nothing rejected, 1 when not.
    """
    from edged.fleet.command import Files, make, seal, send
    from edged.fleet.keys import unlock

    made = make(
        name,
        arguments,
        fleet=fleet,
        device=device,
        hardware_class=hardware_class,
        now=clock.wall(),
        valid=timedelta(seconds=valid_s),
    )
    private_key, _ = unlock(key, given(passphrase_file), asker())
    envelope = seal(made, private_key)
    results = send(
        broker,
        Files(certificate, private, ca),
        made,
        envelope,
        wait_s,
        lambda result: bool(device) and result.status != "accepted",
    )
    last = {result.device: result for result in results}
    if asked.as_json:
        output.document([msgspec.to_builtins(result) for result in last.values()])
    elif not last:
        nobody = f"nobody has answered within {wait_s:g} s, or nobody knows this key"
        output.line(f"{nobody}; devices that are away may obey within {valid_s} s")
    else:
        rows = [
            (safe(result.device), safe(result.status), safe(result.code), safe(result.text)) for result in last.values()
        ]
        columns = (Column("DEVICE"), Column("STATUS"), Column("CODE"), Column("TEXT", wraps=True))
        output.table(Table(columns, sorted(rows)))
    done = bool(last) and all(result.status == "done" for result in last.values())
    return faults.DONE if done else faults.NO
