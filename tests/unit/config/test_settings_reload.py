"""What SIGHUP changes, and what waits for a restart."""

from msgspec import structs

from edged.config.reload import Change, applied, changes
from edged.config.settings import FIELDS, Listen, Log, Serving, Settings, Workers

PRESSURE = (
    "margin_c",
    "throttle_c",
    "hysteresis_c",
    "horizon_s",
    "dwell_s",
    "memory_reserve_mib",
    "idle_s",
    "memory_limit_mib",
    "storage_reserve_mib",
    "write_budget_mib",
    "battery_low_percent",
    "stall_percent",
)
AT_RUN_TIME = {
    "serving.queue_requests",
    "serving.queue_mib",
    "serving.queue_delay_ms",
    "serving.default_timeout_s",
    "serving.drain_s",
    "workers.threads",
    "workers.memory_mib",
    "workers.arena_mib",
    "workers.build_s",
    "workers.load_s",
    "workers.first_inference_s",
    "workers.inference_s",
    "workers.restart_min_s",
    "workers.restart_max_s",
    *(f"pressure.{name}" for name in PRESSURE),
    "update.repository",
    "update.ca",
    "update.poll_s",
    "update.rate_kib",
    "update.daily_mib",
    "update.window",
    "update.hold_max_s",
    "update.shadow_max_s",
    "telemetry.window_s",
    "telemetry.daily_write_mib",
    "telemetry.send",
    "mqtt.rows_per_minute",
    "mqtt.jitter_s",
    "mqtt.unsigned_commands",
    "log.level",
}


def different(value):
    return f"{value}x" if isinstance(value, str) else value + 1


def test_nothing_changed():
    assert changes(Settings(), Settings()) == ()


def test_a_change_says_whether_it_applies_at_once():
    new = Settings(log=Log(level="debug", format="text"), serving=Serving(drain_s=1.0))
    assert changes(Settings(), new) == (
        Change("serving.drain_s", 10.0, 1.0, applies=True),
        Change("log.level", "info", "debug", applies=True),
        Change("log.format", "auto", "text", applies=False),
    )


def test_exactly_these_keys_apply_at_once():
    tables = {}
    for field in FIELDS:
        tables.setdefault(field.table, {})[field.name] = different(field.default)
    old = Settings()
    new = structs.replace(old, **{name: structs.replace(getattr(old, name), **tables[name]) for name in tables})
    assert {change.key for change in changes(old, new)} == {field.key for field in FIELDS}
    assert {change.key for change in changes(old, new) if change.applies} == AT_RUN_TIME


def test_after_a_reload_only_what_applies_at_once_is_in_force():
    old = Settings(listen=Listen(max_message_mib=32), workers=Workers(threads=2))
    new = Settings(log=Log(level="error", format="json"), workers=Workers(threads=3))
    now = applied(old, new)
    assert now == Settings(listen=Listen(max_message_mib=32), workers=Workers(threads=3), log=Log(level="error"))
    assert {change.key for change in changes(now, new)} == {"listen.max_message_mib", "log.format"}
