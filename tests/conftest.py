"""Settings of all tests: hypothesis' deadline is wall-clock time, which says nothing on a shared machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
