"""The page of metrics: its table in the docs, and its lines as another program reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edged.rpc.metrics import DEVICE, REVISIONS, TEMPLATES, WORKERS, sample

REPO = Path(__file__).resolve().parents[3]

LABELS = (
    (DEVICE, ()),
    (REVISIONS, ("model", "version")),
    (WORKERS, ("model", "version", "variant")),
    (TEMPLATES, ("runtime",)),
)


def test_the_docs_tell_of_every_metric_what_it_is():
    page = (REPO / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", page, re.MULTILINE)
    told = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows]
    assert told == [
        (each.name, each.kind, (*labels, *([each.label] if each.label else [])), each.help)
        for metrics, labels in LABELS
        for each in metrics
    ]


def test_names_are_as_prometheus_wants_them():
    for metrics, _ in LABELS:
        for each in metrics:
            assert re.fullmatch(r"(nv_inference|edged|process)_[a-z_]*[a-z]", each.name)
            if not each.name.startswith("nv_"):
                assert each.name.endswith("_total") == (each.kind == "counter"), each.name


@pytest.mark.parametrize("value", ["plain", 'a"b', "a\\b", "a\nb", "\\n", '\\"', "ä", ""])
def test_a_label_is_read_back_as_it_was(value: str):
    [family] = text_string_to_metric_families(sample("edged_x", {"model": value, "version": "1"}, 2.5))
    [found] = family.samples
    assert (found.labels, found.value) == ({"model": value, "version": "1"}, 2.5)


@pytest.mark.parametrize("number", [0, 1, True, 2**53, 0.1, 1e-9, 1e22])
def test_a_number_is_read_back_as_it_was(number: float):
    [family] = text_string_to_metric_families(sample("edged_x", {}, number))
    assert family.samples[0].value == float(number)
