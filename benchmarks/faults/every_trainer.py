"""All trainers of all packages."""

from __future__ import annotations

from benchmarks.faults import episode_trainers, image_trainers, translation_trainers

TRAINERS = (*image_trainers.TRAINERS, *episode_trainers.TRAINERS, *translation_trainers.TRAINERS)
