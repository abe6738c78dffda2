"""What the operator wrote about classes and rules becomes what core obeys.

Pure: a ``SiteConfig`` in, a ``Classifier`` out. Called by edge control at start and at every reload, before
the new configuration is applied, and by ``sdwan policy``. The classes are, in the order of their numbers: the
four ready ones, those the file adds, and one for each (class, link) of rules that pin an application to a
link: like the class, but with that link first. The numbers travel with the data, so both ends should list the
same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sdwan.config.check_policy import class_names, pinned
from sdwan.config.policy import ClassConfig, RuleConfig
from sdwan.config.schema import SiteConfig
from sdwan.core.classes import READY, ClassSpec, Preference, Recovery, SlaLimits
from sdwan.core.classify import Classifier
from sdwan.core.rules import READY_RULES, Direction, Rule


def classifier_of(config: SiteConfig) -> Classifier:
    """Return the classes and rules in force under a configuration that passed every check."""
    specs = specs_of(config)
    numbers = {spec.name: number for number, spec in enumerate(specs)}
    rules = [_rule(rule, numbers) for rule in config.rules]
    return Classifier(specs, rules or READY_RULES)


def specs_of(config: SiteConfig) -> tuple[ClassSpec, ...]:
    """Return the classes in the order of their numbers."""
    ready = {spec.name: spec for spec in READY}
    specs: dict[str, ClassSpec] = {}
    for number, name in enumerate(class_names(config)):
        plain = replace(ready.get(name, ClassSpec(name)), steering=config.steering.mode_of(number))
        specs[name] = _spec(plain, config.classes.get(name, ClassConfig()))
    for class_name, link in pinned(config):
        name = pinned_name(class_name, link)
        specs[name] = replace(specs[class_name], name=name, preference=Preference.ORDERED, links=(link,))
    return tuple(specs.values())


def pinned_name(class_name: str, link: str | None) -> str:
    """Return the name of the class of rules with a link of their own: ``voice@dsl``."""
    return f"{class_name}@{link}" if link else class_name


def _spec(default: ClassSpec, written: ClassConfig) -> ClassSpec:
    """Put what is written over what a class has by itself."""
    changes: dict[str, Any] = {
        name: getattr(written, name)
        for name in ClassConfig.model_fields
        if getattr(written, name) is not None
    }
    if written.preference is not None:
        changes["preference"] = Preference(written.preference)
    if written.recovery is not None:
        changes["recovery"] = Recovery(written.recovery)
    if written.sla is not None:
        changes["sla"] = SlaLimits(**written.sla.model_dump())
    return replace(default, **changes)


def _rule(rule: RuleConfig, numbers: dict[str, int]) -> Rule:
    return Rule(
        traffic_class=numbers[pinned_name(rule.class_name, rule.link)],
        dscp=rule.dscp,
        protocols=rule.protocols,
        ports=rule.ports,
        source_ports=rule.source_ports,
        destination_ports=rule.destination_ports,
        prefixes=rule.prefixes,
        source=rule.source,
        destination=rule.destination,
        direction=Direction(rule.direction),
        comment=rule.comment,
    )
