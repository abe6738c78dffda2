"""No root, no clock, no network: one file per source file, same stem."""
