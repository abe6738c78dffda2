"""`sdwan policy`: check a file's classes and rules, show them, and say which class a packet gets and why.

Only reads the file that is named; needs no running edge, no root and no key file.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdwan.cli.entry import EXIT_CODES_HELP, EXIT_ERROR, EXIT_OK
from sdwan.errors import ConfigError

if TYPE_CHECKING:
    from sdwan.core.classes import ClassSpec
    from sdwan.core.classify import Classifier, Explanation

file_argument = click.argument("file", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(epilog=EXIT_CODES_HELP)
def policy() -> None:
    """Check classes and rules, show them, ask which class a packet gets."""


@policy.command(short_help="Check classes and rules.")
@file_argument
@json_option
def check(file: Path, as_json: bool) -> int:
    """Check the classes and rules of a configuration, and all else that needs no key file."""
    from sdwan.config.load import examine
    from sdwan.edge.policy import classifier_of

    examined = examine(file)
    errors, facts = list(examined.errors), {}
    if examined.config is not None:
        try:
            classifier = classifier_of(examined.config)
            facts = {"classes": len(classifier.specs), "rules": len(classifier.rules)}
            facts["size_bytes"] = len(classifier.to_json())
        except ConfigError as error:
            errors.append(error)
    found = {
        "ok": not errors,
        **facts,
        "errors": [vars(error) for error in errors],
        "warnings": [vars(warning) for warning in examined.warnings],
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return EXIT_ERROR if errors else EXIT_OK
    for kind, some in (("error", errors), ("warning", examined.warnings)):
        for item in some:
            click.echo(f"{kind}: {item}", err=True)
    if errors:
        return EXIT_ERROR
    ready = "" if examined.config is None or examined.config.rules else " (the ready ones)"
    click.echo(f"{file}: {facts['classes']} class(es), {facts['rules']} rule(s){ready}: fine")
    return EXIT_OK


@policy.command(short_help="Say which class a packet gets, and why.")
@file_argument
@click.option("--source", required=True, metavar="ADDRESS", help="Where the packet comes from.")
@click.option("--destination", required=True, metavar="ADDRESS", help="Where it goes.")
@click.option("--protocol", default="tcp", show_default=True, help="Name or number.")
@click.option("--source-port", type=click.IntRange(0, 65535), help="Of TCP or UDP.")
@click.option("--destination-port", type=click.IntRange(0, 65535), help="Of TCP or UDP.")
@click.option("--dscp", default="BE", show_default=True, help="Name or number.")
@json_option
def explain(
    file: Path, source: str, destination: str, protocol: str, source_port: int | None,
    destination_port: int | None, dscp: str, as_json: bool,
) -> None:  # fmt: skip
    """Say which class a packet that this site sends gets, and why each rule before did not match.

    A port that is not named is unknown: no rule that asks for it matches.
    """
    from sdwan.core.rules import PORTED, Flow

    classifier = _classifier(file)
    ends = _address("--source", source), _address("--destination", destination)
    if ends[0].version != ends[1].version:
        raise ConfigError(
            "--destination", f"{destination} and {source} are of different families", "one family"
        )
    number = _protocol(protocol, ends[0].version)
    if number not in PORTED and (source_port, destination_port) != (None, None):
        raise ConfigError("--protocol", f"{protocol} has no ports", "tcp or udp")
    code_point = _number("--dscp", dscp, "parse_dscps")
    found = classifier.explain(Flow(*ends, number, source_port, destination_port, code_point))
    if as_json:
        click.echo(json.dumps(_plain(classifier, found), indent=2))
    else:
        _print_explanation(classifier, found)


@policy.command(short_help="Show the classes as a table.")
@file_argument
@json_option
def classes(file: Path, as_json: bool) -> None:
    """Show every class with all its settings, written or not."""
    from sdwan.cli.output import console

    classifier = _classifier(file)
    if as_json:
        plain = [{"number": n, **spec.to_plain()} for n, spec in enumerate(classifier.specs)]
        click.echo(json.dumps(plain, indent=2))
        return
    console().print(_classes_table(classifier))


def _classifier(file: Path) -> Classifier:
    from sdwan.config.load import load
    from sdwan.edge.policy import classifier_of

    return classifier_of(load(file))


# What an operator typed ------------------------------------------------------------------------------


def _address(option: str, text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ConfigError(option, f"{text!r} is no IP address", "such as 10.1.0.5 or fd00::5") from None


def _protocol(text: str, version: int) -> int:
    """Return the protocol number; a name that stands for one in each family is taken by the family."""
    numbers = _numbers("--protocol", text, "parse_protocols")
    return numbers[-1] if version == 6 else numbers[0]


def _number(option: str, text: str, parser: str) -> int:
    numbers = _numbers(option, text, parser)
    if len(numbers) != 1:
        raise ConfigError(option, f"{text!r} names several", "one of them")
    return numbers[0]


def _numbers(option: str, text: str, parser: str) -> tuple[int, ...]:
    from sdwan.config import match
    from sdwan.config.values import Wrong

    try:
        numbers: tuple[int, ...] = getattr(match, parser)(int(text) if text.isdecimal() else text)
    except Wrong as wrong:
        raise ConfigError(option, wrong.why, wrong.right) from None
    return numbers


# How it looks ----------------------------------------------------------------------------------------


def _plain(classifier: Classifier, found: Explanation) -> dict[str, Any]:
    return {
        "class": classifier.specs[found.traffic_class].name,
        "number": found.traffic_class,
        "rule": found.rule or None,
        "steps": [
            {"rule": step.rule, "matched": not step.reason, "reason": step.reason} for step in found.steps
        ],
    }


def _print_explanation(classifier: Classifier, found: Explanation) -> None:
    for step in found.steps:
        rule = classifier.rules[step.rule - 1]
        comment = f" ({rule.comment})" if rule.comment else ""
        name = classifier.specs[rule.traffic_class].name
        click.echo(f"rule {step.rule}{comment}: {step.reason or f'matches: {name}'}")
    if not found.rule:
        click.echo("no rule matches")
    click.echo(f"class {classifier.specs[found.traffic_class].name}")


def _classes_table(classifier: Classifier) -> Any:
    from sdwan.cli.output import table

    columns = [
        ("", True), ("class", False), ("priority", True), ("steering", False), ("prefers", False),
        ("links", False), ("backup", False), ("recovery", False), ("deadline", True), ("queue", True),
        ("limit", True), ("SLA", False), ("rules", True),
    ]  # fmt: skip
    counts = [rule.traffic_class for rule in classifier.rules]
    return table(
        "Classes", columns, (_row(n, spec, counts.count(n)) for n, spec in enumerate(classifier.specs))
    )


def _row(number: int, spec: ClassSpec, rules: int) -> list[str]:
    from sdwan.cli.output import UNKNOWN, milliseconds, rate

    prefers = spec.preference.value + (", not metered" if spec.avoid_metered else "")
    return [
        str(number), spec.name, str(spec.priority), spec.steering.name.lower(), prefers,
        ", ".join(spec.links) or "all", ", ".join(spec.backup_links) or UNKNOWN, spec.recovery.value,
        milliseconds(spec.deadline_ns), milliseconds(spec.queue_target_ns),
        rate(spec.rate_limit_bps) if spec.rate_limit_bps else UNKNOWN, _sla(spec), str(rules),
    ]  # fmt: skip


def _sla(spec: ClassSpec) -> str:
    from sdwan.cli.output import UNKNOWN, milliseconds, percent

    limits = [
        f"{name} {write(value)}"
        for name, value, write in (
            ("rtt", spec.sla.latency_ns, milliseconds),
            ("jitter", spec.sla.jitter_ns, milliseconds),
            ("loss", spec.sla.loss_ppm, percent),
        )
        if value is not None
    ]
    return ", ".join(limits) or UNKNOWN
