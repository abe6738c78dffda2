"""Configuration: one YAML file per site becomes one frozen ``SiteConfig``, or one clear refusal.

    values    one scalar: what an operator writes -> what the program uses (rates, times, addresses)
    match     one condition of a rule -> numbers, ranges, networks
    section   what a section and a key are
    policy    the shape of classes and rules
    schema    the shape of the file: strict, frozen models; every key with unit, default, meaning
    paths     which paths follow from a configuration, and their numbers
    load      file -> SiteConfig; whatever is wrong with the file comes out as ConfigError
    check     what one key alone cannot tell: duplicates, overlaps, limits, key files; and warnings
    check_policy  the same for classes and rules: impossible ones, unreachable ones
    reach     which rules never get their turn
    diff      what changed between two configurations, and whether a reload is enough
    reference writes docs/operate/configuration.md from the schema

May be imported by every room above; imports only ``sdwan.model`` and ``sdwan.errors``.
"""
