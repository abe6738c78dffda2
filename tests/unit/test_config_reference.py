"""The reference page is what the schema says, and every key says what it must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from sdwan.config.reference import reference
from sdwan.config.schema import KeyFacts, Section, SiteConfig, facts_of, keys_of, section_of

NOT_WRITTEN = ("none", "wait", "every link", "the ready four", "the ready rules")
"""Defaults that cannot be written as values."""

PAGE = Path(__file__).parents[2] / "docs/operate/configuration.md"


def every_key(section: type[Section] = SiteConfig) -> Iterator[tuple[str, KeyFacts, bool]]:
    for name, field in keys_of(section).items():
        yield name, facts_of(field), field.is_required()
        inner = section_of(field.annotation)
        if inner is not None:
            yield from every_key(inner)


def test_the_page_in_the_repository_is_current() -> None:
    assert PAGE.read_text() == reference(), (
        "run: python -m sdwan.config.reference > docs/operate/configuration.md"
    )


def test_every_key_is_described_and_has_a_kind() -> None:
    keys = list(every_key())
    assert len(keys) > 40
    for name, facts, _ in keys:
        assert facts.description.endswith("."), name
        assert facts.kind, name


def test_defaults_shown_are_the_defaults_used() -> None:
    """What the page shows as default, written into a file, changes nothing."""
    required = {"site": "a", "private_key": "k", "tun": {"addresses": ["10.0.0.1/24"]}}
    link = {"name": "l", "interface": "i"}
    plain = SiteConfig.model_validate({**required, "links": [link]})

    def shown(section: type[Section]) -> dict[str, object]:
        values = {}
        for name, field in keys_of(section).items():
            text = facts_of(field).shown
            if text and section_of(field.annotation) is None and text not in NOT_WRITTEN:
                values[name] = yaml.safe_load(text)
        return values

    written: dict[str, object] = {**required, **shown(SiteConfig)}
    for name, field in keys_of(SiteConfig).items():
        inner = section_of(field.annotation)
        if inner is not None and name not in ("links", "peers", "metrics", "classes", "rules"):
            written[name] = {**shown(inner), **(required["tun"] if name == "tun" else {})}  # type: ignore[dict-item]
    written["links"] = [{**link, **shown(section_of(keys_of(SiteConfig)["links"].annotation) or Section)}]
    assert SiteConfig.model_validate(written) == plain
