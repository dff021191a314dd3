"""A Linux guest that never ends by itself. Of all the files here this one is last, for it takes a minute."""

from __future__ import annotations

import re
from concurrent.futures import Future

import lab


def test_a_stuck_guest_ends_at_its_deadline(stuck: Future[lab.Result]) -> None:
    """--duration and a minute to boot."""
    result = stuck.result()
    said = result.stderr.decode()
    assert result.status == 0, said
    assert b"\n# end deadline " in result.stdout, said
    lived = re.search(r"lived ([\d.]+) s, .* ended by deadline", said)
    assert lived, said
    assert 61 <= float(lived[1]) < 65
