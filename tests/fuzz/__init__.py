"""Whatever a stranger sends: only our typed errors may escape a parser."""
