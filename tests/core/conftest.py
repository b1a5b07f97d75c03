"""Properties are checked without a deadline: a slow machine is no counterexample."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("core", deadline=None, max_examples=150)
hypothesis.settings.load_profile("core")
