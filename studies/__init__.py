"""Measurements behind README.md and FINDINGS.md, run from the root: python -m studies.bench."""
