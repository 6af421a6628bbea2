"""Every setting of the daemon: its type, bounds, default, unit and meaning.

All that is told about settings (problems, `--print-config`, docs/settings.md) is made from this file, and from
`pressure.py` for the table of that name. What several
values must keep to together stands in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, inspect, structs

from edged import schema
from edged.config.kinds import NAME, AbsolutePath, HardwareClass, OptionalPath, Table
from edged.config.pressure import Pressure
from edged.config.telemetry import Mqtt, Telemetry
from edged.config.update import Update


class Device(Table, frozen=True, kw_only=True):
    """What this device is."""

    hardware_class: Annotated[
        HardwareClass,
        Meta(description="The named deployment target that this device belongs to; variants and plans refer to it."),
    ] = "generic"
    name: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.:-]{0,126}[A-Za-z0-9])?)?\Z",
            description="What this device is called in plans and reports.",
            extra={
                "allowed": "\"\" for one derived from the machine id, or 1 to 128 of A-Z, a-z, 0-9, '-', '_', '.' and "
                "':', beginning and ending with a letter or digit"
            },
        ),
    ] = ""
    fleet: Annotated[
        str,
        Meta(
            pattern=NAME,
            description="The fleet that this device belongs to.",
            extra={"allowed": "1 to 64 of a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit"},
        ),
    ] = "default"


class Paths(Table, frozen=True, kw_only=True):
    """Where edged keeps and finds its files."""

    state: Annotated[
        AbsolutePath,
        Meta(description="The folder for what must survive: the journal, the model store, the last good settings."),
    ] = "/var/lib/edged"
    cache: Annotated[
        AbsolutePath,
        Meta(description="The folder for what can be made again: files that an engine derived on this device."),
    ] = "/var/cache/edged"
    factory: Annotated[
        AbsolutePath,
        Meta(description="The folder of the bundles that came with the image; it is only read."),
    ] = "/usr/share/edged/models"


class Listen(Table, frozen=True, kw_only=True):
    """Where callers reach edged."""

    socket: Annotated[
        AbsolutePath,
        Meta(description="The Unix socket for inference, health and reflection."),
    ] = "/run/edged/edged.sock"
    admin_socket: Annotated[
        AbsolutePath,
        Meta(description="The Unix socket for administration; who may use it is decided by its folder."),
    ] = "/run/edged-admin/admin.sock"
    tcp: Annotated[
        str,
        Meta(
            pattern=r"^[0-9A-Za-z.:%\[\]_-]{0,128}\Z",
            description="A TCP address for inference, without shared memory, and on loopback open to every user of the "
            "device; one that other machines can reach needs the three TLS files.",
            extra={"allowed": '"" for none, or IP:port, such as "127.0.0.1:8001" or "[::1]:8001"'},
        ),
    ] = ""
    metrics: Annotated[
        str,
        Meta(
            pattern=r"^[0-9A-Za-z.:%\[\]_-]{0,128}\Z",
            description="A TCP address of this device itself at which Prometheus may ask for metrics, at /metrics.",
            extra={"allowed": '"" for none, or IP:port of loopback, such as "127.0.0.1:9464" or "[::1]:9464"'},
        ),
    ] = ""
    tls_certificate: Annotated[
        OptionalPath,
        Meta(description="The certificate chain that the TCP address shows, as PEM."),
    ] = ""
    tls_key: Annotated[
        OptionalPath,
        Meta(description="The private key of the certificate, as PEM."),
    ] = ""
    tls_client_ca: Annotated[
        OptionalPath,
        Meta(description="The authorities whose client certificates are accepted on the TCP address, as PEM."),
    ] = ""
    socket_priority: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="The best priority that requests over the socket get, 1 being the highest; "
            "those that ask for a better one get this.",
        ),
    ] = 1
    tcp_priority: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="The best priority that requests over TCP get; those that ask for a better one get this.",
        ),
    ] = 1
    max_message_mib: Annotated[
        int,
        Meta(ge=1, le=1024, description="The largest message taken or given.", extra={"unit": "MiB"}),
    ] = 64

    @property
    def max_message_bytes(self) -> int:
        """`max_message_mib` in bytes."""
        return self.max_message_mib * 2**20


class Serving(Table, frozen=True, kw_only=True):
    """How requests wait and for how long."""

    queue_requests: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="The most requests that wait for one model; further ones are refused at once.",
            extra={"unit": "requests", "reload": True},
        ),
    ] = 256
    queue_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="The most bytes of requests that wait for one model; further ones are refused at once.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 128
    queue_delay_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600_000,
            description="The longest expected wait for one model where more than 16 requests wait or are executed; "
            "further ones are refused at once, and for 30 s a sixth of it holds for all.",
            extra={"unit": "ms", "reload": True},
        ),
    ] = 100
    default_timeout_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=3_600,
            description="How long a request that names no deadline of its own may take, waiting included.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 60.0
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="How long requests already taken may go on when the daemon stops or a model is unloaded.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 10.0


class Workers(Table, frozen=True, kw_only=True):
    """What worker processes may take; a variant's own options and caps come first, and new workers take new values."""

    threads: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="The threads that one inference is spread over, where the variant does not say.",
            extra={"unit": "threads", "reload": True},
        ),
    ] = 1
    memory_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=16_777_216,
            description="The memory that a worker may take, where the variant does not say; 0: half of the device's.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 0
    arena_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="The memory that a worker shares with the front for large tensors; taken only when it is used.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 256
    load_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=86_400,
            description="How long a worker may take to load its model, where the variant does not say.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 60.0
    first_inference_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=86_400,
            description="How long the first inference after loading may take, where the variant does not say.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 30.0
    inference_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=3_600,
            description="How long any other inference may take before its worker counts as hung and is killed.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 10.0
    build_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=86_400,
            description="How long an engine may take to build what a derived variant runs.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 900.0
    derived_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="The most that what engines build may take in the cache folder.",
            extra={"unit": "MiB"},
        ),
    ] = 1024
    restart_min_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=3_600,
            description="The delay before a worker that died is started again; it grows with each further death.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 0.5
    restart_max_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=86_400,
            description="The longest such delay; not below restart_min_s.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 60.0


class Log(Table, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(
            description="The least important lines that are still written.",
            extra={"allowed": 'one of "debug", "info", "warning", "error"', "reload": True},
        ),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "text"],
        Meta(description="How lines are written; auto is text on a terminal and JSON elsewhere."),
    ] = "auto"
    events_kept: Annotated[
        int,
        Meta(
            ge=16,
            le=100_000,
            description="How many of the daemon's latest events are kept in memory for whoever asks.",
            extra={"unit": "events"},
        ),
    ] = 512


class Settings(Table, frozen=True, kw_only=True):
    """All tables. Values are as written in the files; what opens files uses `under(root)`."""

    device: Device = Device()
    paths: Paths = Paths()
    listen: Listen = Listen()
    serving: Serving = Serving()
    workers: Workers = Workers()
    pressure: Pressure = Pressure()
    update: Update = Update()
    telemetry: Telemetry = Telemetry()
    mqtt: Mqtt = Mqtt()
    log: Log = Log()

    def under(self, root: PurePath) -> Settings:
        """These settings with every path moved below `root`, as chroot would; "/" changes nothing. Apply it once."""
        moved: dict[str, dict[str, object]] = {}
        for field in FIELDS:
            value = field.of(self)
            if field.is_path and value:
                moved.setdefault(field.table, {})[field.name] = beneath(root, str(value))
        tables = {table: structs.replace(getattr(self, table), **values) for table, values in moved.items()}
        return structs.replace(self, **tables)


def beneath(root: PurePath, path: str) -> str:
    """The absolute `path` moved below `root`."""
    return path if root == PurePath("/") else str(root / path.lstrip("/"))


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One key, as it is told to people."""

    table: str
    name: str
    default: bool | int | float | str
    unit: str
    allowed: str
    meaning: str
    reload: bool
    """SIGHUP changes it at run time."""
    is_path: bool

    @property
    def key(self) -> str:
        """The key as people write it: `serving.drain_s`."""
        return f"{self.table}.{self.name}"

    def of(self, settings: Settings) -> bool | int | float | str:
        """Its value in `settings`."""
        value: bool | int | float | str = getattr(getattr(settings, self.table), self.name)
        return value


def _fields() -> Iterator[Field]:
    for table in structs.fields(Settings):
        for field in structs.fields(table.type):
            kind = inspect.type_info(field.type)
            meta = kind if isinstance(kind, inspect.Metadata) else inspect.Metadata(kind)
            extra: dict[str, Any] = meta.extra or {}
            yield Field(
                table=table.name,
                name=field.name,
                default=field.default,
                unit=(unit := extra.get("unit", "")),
                allowed=schema.describe(field.type).removesuffix(f" ({unit})"),
                meaning=(meta.extra_json_schema or {}).get("description", ""),
                reload=extra.get("reload", False),
                is_path=extra.get("path", False),
            )


FIELDS = tuple(_fields())
"""Every key, in the order in which it is told."""
