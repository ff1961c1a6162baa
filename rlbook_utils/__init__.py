"""What the chapters share: run control, rollouts, results, plots, video, widgets and the chapter loader.

Nothing that a chapter teaches lives here. MuJoCo reads ``MUJOCO_GL`` when it is imported; on a Linux
machine without a display it is pointed at the software renderer before any chapter imports it.
"""

import os
import sys

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the book makes no network request
if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
