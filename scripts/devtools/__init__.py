"""What the developers' commands, benches and tests share: programs, receivers, guests, dashboards, pictures.

Nothing of it is published. `make setup` puts it on the path, by dev-mode-dirs in pyproject.toml.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
