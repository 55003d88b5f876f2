"""Figures, measured beside a peer in the same run: `python -m benchmarks [name ...]`. Nothing here is asserted by a test."""
