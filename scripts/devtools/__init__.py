"""Shared by the developers' commands, benches and tests: programs, receivers, guests, dashboards, pictures.

It is not published. `make setup` puts it on the path, by dev-mode-dirs in pyproject.toml.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
