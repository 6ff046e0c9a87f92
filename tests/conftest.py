"""How hypothesis draws: the same examples each time in ``make test``, new ones and more of them in ``make explore``."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("test", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
