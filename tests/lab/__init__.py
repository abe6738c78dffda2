"""The link emulator and the named scenarios."""
