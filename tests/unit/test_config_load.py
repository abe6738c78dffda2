"""Loading: a wrong file is refused with the key, the line, the reason and what would be right."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from sdwan.config.load import examine, examine_text, load
from sdwan.config.schema import SiteConfig
from sdwan.errors import ConfigError
from sdwan.model import SteerMode

ROOT = Path(__file__).parents[2]
HUB_KEY = base64.b64encode(b"h" * 32).decode()
SECRET = base64.b64encode(b"s" * 32).decode()

GOOD = f"""\
site: berlin
private_key: keys/edge.key
tun:
  addresses: [10.77.1.1/24, "fd77:1::1/64"]
links:
  - name: dsl
    interface: eth0
    rate: {{up: 20mbit, down: 100mbit}}
  - name: lte
    interface: wwan0
    metered: true
peers:
  - name: hub
    public_key: {HUB_KEY}
    prefixes: [10.77.0.0/16]
    endpoints:
      - address: 203.0.113.1:4510
"""


def errors_of(text: str) -> list[str]:
    return [str(error) for error in examine_text(text, Path("/etc/sdwan/edge.yaml")).errors]


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) >= 1
    return GOOD.replace(old, new, 1)


def test_a_good_file_becomes_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text(GOOD)
    config = load(path)
    assert config.site == "berlin"
    assert config.private_key == tmp_path / "keys/edge.key"
    assert config.links[0].rate_up_bps == 20_000_000
    assert config.links[1].rate_up_bps is None
    assert config.steering.mode_of(3) is SteerMode.EARLIEST
    assert config.status_socket == Path("/run/sdwan/berlin.sock")
    assert config.peers[0].public_key_text == HUB_KEY


@pytest.mark.parametrize("name", ["edge.yaml", "hub.yaml", "policy-office.yaml"])
def test_the_example_files_are_fine(name: str) -> None:
    examined = examine(ROOT / "config" / name)
    assert examined.errors == () and examined.warnings == ()


def test_what_the_examples_comment_out_is_true() -> None:
    """Every option shown commented out can be switched on as it stands."""
    lines = []
    for line in (ROOT / "config/edge.yaml").read_text().splitlines()[8:]:
        body = line.lstrip()
        if body.startswith("# ") and ":" in body:
            line = line[: len(line) - len(body)] + body[2:]
        lines.append(line)
    examined = examine_text("\n".join(lines), ROOT / "config/edge.yaml")
    assert examined.errors == ()
    assert examined.config is not None
    plain = examine(ROOT / "config/edge.yaml").config
    assert plain is not None
    for key in ("port", "tun", "control", "log", "bpf", "runtime_dir"):  # shown with their defaults
        assert getattr(examined.config, key) == getattr(plain, key)


REFUSED = [
    ("site: berlin", "site: berlin\nsit: x", "sit (edge.yaml, line 2): unknown key; did you mean `site`?"),
    ("metered: true", "colour: red", "links[1].colour (edge.yaml, line 11): unknown key; known here: name, "),
    ("site: berlin\n", "", "site (edge.yaml, line 1): missing; add it (name)"),
    ("20mbit", "20", "links[0].rate.up (edge.yaml, line 8): 20 is no number with a unit; such as 20mbit"),
    ("metered: true", "metered: maybe", "links[1].metered (edge.yaml, line 11): 'maybe' does not fit here; "),
    (
        "metered: true",
        "weight: -1",
        "links[1].weight (edge.yaml, line 11): -1 is out of range; expected: num",
    ),
    ("metered: true", "weight: .nan", "links[1].weight (edge.yaml, line 11): nan does not fit here"),
    ("metered: true", "weight: '1'", "links[1].weight (edge.yaml, line 11): '1' does not fit here"),
    ("site: berlin", "site: berlin\nport: 70000", "port (edge.yaml, line 2): 70000 is out of range"),
    ("site: berlin", "site: berlin\nport: yes", "port (edge.yaml, line 2): True does not fit here"),
    ("site: berlin", "site: 12", "site (edge.yaml, line 1): 12 is not text"),
    ("10.77.0.0/16", "10.77.0.1/16", "peers[0].prefixes[0] (edge.yaml, line 15): '10.77.0.1/16' has bits"),
    ("10.77.0.0/16", "", "peers[0].prefixes (edge.yaml, line 15): is empty; at least one entry"),
    (
        "site: berlin",
        "site: berlin\nlog: loud",
        "log (edge.yaml, line 2): 'loud' is no section; a section with",
    ),
    (
        "site: berlin",
        "site: berlin\nlog: {level: loud}",
        "log.level (edge.yaml, line 2): 'loud' does not fit",
    ),
    ("site: berlin", "site: berlin\ncontrol: {report_interval: 5ms}", "(edge.yaml, line 2): '5ms' is out of"),
    (
        "site: berlin",
        "site: berlin\nsteering: {classes: {8: pin}}",
        "steering.classes[8] (edge.yaml, line 2): 8",
    ),
    (
        "site: berlin",
        "site: berlin\nsite: again",
        "edge.yaml: site (line 2): stands here twice, first in line 1",
    ),
    (
        "site: berlin",
        "site: berlin\nrules:\n  - {class: voice}\n  - {class: voice, ports: 90-80}",
        "rules[1].ports (edge.yaml, line 4): the range '90-80' is empty; write 80-90",
    ),
    (
        "site: berlin",
        "site: berlin\nrules: [{klass: voice}]",
        "rules[0].klass (edge.yaml, line 2): unknown key; did you mean `class`?",
    ),
    (
        "site: berlin",
        "site: berlin\nclasses: {links: {prefer: best}}",
        "classes.links.prefer (edge.yaml, line 2): 'best' does not fit here; expected: any, lowest_latency",
    ),
    (
        "site: berlin",
        "site: berlin\nclasses: {voice: {sla: {latency: 5}}}",
        "classes.voice.sla.latency (edge.yaml, line 2): 5 is no number with a unit; such as 25ms",
    ),
    (
        "site: berlin",
        "site: berlin\nclasses: {voice: loud}",
        "'loud' is no section; a section with the keys pri",
    ),
    ("site: berlin", "site: berlin\nclasses: {'a b': {}}", "'a b' is no key here"),
    ("metered: true", "quota: 20", "links[1].quota (edge.yaml, line 11): 20 is no number with a unit"),
    ("metered: true", "name: x", "edge.yaml: links[1].name (line 11): stands here twice, first in line 9"),
    ("tun:", "tun: &tun", "edge.yaml: line 3: anchors and aliases are not allowed"),
    ("site: berlin", "site: !!python/name:os.system x", "edge.yaml: line 1: tag "),
    ("site: berlin", "[a]: berlin", "edge.yaml: line 1: a key must be a word or a number"),
    ("site: berlin", "site: " + "[" * 40, "nested deeper than 16 levels"),
    ("site: berlin", "site: 'berlin", "is not YAML"),
    ("site: berlin", "site: !!int abc", "edge.yaml: line 1: 'abc' is no value"),
    ("site: berlin", "site: " + "9" * 5000, "is no value"),
]


@pytest.mark.parametrize(("old", "new", "told"), REFUSED, ids=[new.strip()[:40] for _, new, _ in REFUSED])
def test_refused(old: str, new: str, told: str) -> None:
    assert told in "\n".join(errors_of(changed(old, new)))


@pytest.mark.parametrize("text", ["", "berlin", "[]", "3", "null", "--- \n...\n"])
def test_a_file_without_keys_is_refused(text: str) -> None:
    assert "holds no keys" in errors_of(text)[0]


def test_every_error_is_told_and_in_the_order_of_the_file() -> None:
    text = changed("20mbit", "20").replace("10.77.0.0/16", "10.77.0.1/16").replace("site: berlin", "site: 1")
    assert [error.split(" ")[0] for error in errors_of(text)] == [
        "site",
        "links[0].rate.up",
        "peers[0].prefixes[0]",
    ]


def test_load_tells_the_first_and_how_many_more(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text(changed("20mbit", "20").replace("site: berlin", "site: 1"))
    with pytest.raises(ConfigError, match=r"^site .*and 1 more"):
        load(path)


@pytest.mark.parametrize("key", ["private_key", "preshared_key"])
def test_a_key_written_into_the_file_is_refused_and_not_repeated(key: str) -> None:
    text = changed("keys/edge.key", SECRET) if key == "private_key" else changed(
        "    prefixes", f"    preshared_key: {SECRET}\n    prefixes"
    )  # fmt: skip
    (error,) = errors_of(text)
    assert f"{key} (edge.yaml" in error and "looks like the key itself" in error and "0600" in error
    assert SECRET not in error


@pytest.mark.parametrize(
    "where", ["site: {0}", "site: berlin\nport: {0}", "site: berlin\n{0}: 1", "site: [{0}"]
)
def test_a_key_in_a_wrong_place_is_not_repeated(where: str) -> None:
    errors = errors_of(changed("site: berlin", where.format(SECRET)))
    assert errors
    assert not any(SECRET in error for error in errors)


def test_files_that_are_none(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    large = tmp_path / "large"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    told = {
        Path("/dev/zero"): "not a regular file",
        fifo: "not a regular file",
        tmp_path: "Is a directory",
        tmp_path / "absent": "No such file",
        binary: "not UTF-8",
        large: "larger than",
    }
    for path, why in told.items():
        (error,) = examine(path).errors
        assert why in str(error) and str(path) in str(error)


def test_a_configuration_never_changes() -> None:
    config = examine_text(GOOD, Path("/etc/sdwan/edge.yaml")).config
    assert isinstance(config, SiteConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.port = 1  # type: ignore[misc]
