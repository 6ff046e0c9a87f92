"""How hypothesis draws: the same examples each time in ``make test``, new ones and more of them in ``make explore``.

And nodes of tests run no console unless theirs asks for it: its port is one for the whole machine.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("test", derandomize=True, deadline=None)
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
os.environ.setdefault("MEDREGA_PACS__CONSOLE__ENABLED", "false")
