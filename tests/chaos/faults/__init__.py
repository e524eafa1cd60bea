"""Faults: what one is (`kinds`), and a table of them for each place where they can hit."""
