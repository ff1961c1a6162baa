"""Frames of an episode, and short H.264 clips that play inside the notebook and the book."""

import base64
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
from IPython.display import HTML


class RenderError(RuntimeError):
    """The environment cannot draw itself on this machine."""


def record(
    env_id: str,
    policy: Callable[[np.ndarray], object],
    seed: int,
    steps: int,
    *,
    every: int = 1,
    **make: object,
) -> list[np.ndarray]:
    """Frames [H, W, 3] (uint8) of one episode of at most ``steps`` steps, one frame in ``every``.

    policy: one observation -> one action. make: passed to ``gym.make`` (``width``, ``height``).
    Raises RenderError, naming the package to install, where no renderer is found.
    """
    try:
        env = gym.make(env_id, render_mode="rgb_array", **make)
        obs, _ = env.reset(seed=seed)
        frames = [env.render()]
    except Exception as error:  # each renderer fails in a way of its own
        raise RenderError(
            f"{env_id} cannot be drawn here ({type(error).__name__}: {error}). On Linux without a display, "
            "install libosmesa6 (Debian, Ubuntu) and set MUJOCO_GL=osmesa."
        ) from error
    for step in range(1, steps):
        obs, _, terminated, truncated, _ = env.step(policy(obs))
        if step % every == 0:
            frames.append(env.render())
        if terminated or truncated:
            break
    env.close()
    return frames


def save_clip(path: str | Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write frames [T][H, W, 3] as an H.264 file that every browser plays; H and W even."""
    iio.imwrite(path, np.stack(frames), fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2,
                output_params=["-crf", "28", "-preset", "slow", "-movflags", "+faststart"])  # fmt: skip


def show_clip(clip: str | Path | Sequence[np.ndarray], fps: float = 30, caption: str = "") -> HTML:
    """A clip, or frames [T][H, W, 3], as an inline video that needs no file beside the page."""
    if not isinstance(clip, str | Path):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            save_clip(path, clip, fps)
            return show_clip(path, caption=caption)
    data = base64.b64encode(Path(clip).read_bytes()).decode()
    return HTML(
        f'<figure style="margin:0"><video controls loop muted autoplay playsinline style="max-width:100%" '
        f'src="data:video/mp4;base64,{data}"></video><figcaption>{caption}</figcaption></figure>'
    )
