"""The proof of the house; docs/architecture.md says what is proved in which layer.

Each folder is a package, so helpers are imported by their full name: ``from tests.netns.sites import ...``.
"""
