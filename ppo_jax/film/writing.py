"""Writes frames as a GIF or an MP4."""

import contextlib
import io
import os
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from ppo_jax.film.canvas import PALETTE
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError
from ppo_jax.run.storage import folder

SUFFIXES = (".gif", ".mp4")
_COLORS = 96  # beside those that all films share
_SAMPLES = 24  # frames that the palette is made of

Frame = tuple[Image.Image, float]  # and how many seconds it is shown


def check(out: Path, overwrite: bool) -> None:
    """Raise InputError for a file of another kind, one that exists, or that cannot be written."""
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out is {out}; a film's name ends in {' or '.join(SUFFIXES)}")
    if out.suffix.lower() == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise InputError(
            f"--out {out}: MP4 needs imageio-ffmpeg; pip install 'ppo-jax[mp4]', or give a .gif"
        )
    if out.exists() and not overwrite:
        raise InputError(
            f"{out} exists; give another file with --out, or --overwrite to replace it"
        )


def write(out: Path, frames: Sequence[Frame], console: Console) -> None:
    """Write the frames, and say where."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".mp4":
        _write_mp4(out, frames)
    else:
        folder.write(out, _to_gif(frames))
    console.say(f"wrote {out}: {len(frames):,} frames, {out.stat().st_size / 1e6:.2f} MB")


def _to_gif(frames: Sequence[Frame]) -> bytes:
    palette, content = _palette([picture for picture, _ in frames]), io.BytesIO()
    first, *others = (
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture, _ in frames
    )
    # The format counts hundredths of a second; optimized, what stays the same is left out.
    durations = [max(round(100 * seconds), 2) * 10 for _, seconds in frames]
    options = {"append_images": others, "duration": durations, "loop": 0, "optimize": True}
    first.save(content, "GIF", save_all=True, **options)
    return content.getvalue()


def _palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """One palette for all pictures, from all colors of some of them: each counts once, so that a
    small dot keeps its color."""
    samples = pictures[:: max(1, len(pictures) // _SAMPLES)]
    colors: set[Any] = {one for picture in samples for _, one in picture.getcolors(1 << 24) or ()}
    image = Image.new("RGB", (len(colors), 1))
    image.putdata(sorted(colors))
    own = image.quantize(_COLORS, kmeans=2).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*sum(map(ImageColor.getrgb, PALETTE), ()), *own[: 3 * _COLORS]])
    return palette


def _write_mp4(out: Path, frames: Sequence[Frame]) -> None:
    """Every frame as often as it is shown, at the pace of the shortest."""
    from imageio_ffmpeg import get_ffmpeg_exe

    (wide, tall), fps = frames[0][0].size, 1 / min(seconds for _, seconds in frames)
    temporary = out.with_name(f".{out.stem}.tmp.mp4")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{wide}x{tall}", "-r", f"{fps}", "-i", "-"]
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-y", *raw, "-pix_fmt", "yuv420p"]
    process = subprocess.Popen([*command, str(temporary)], stdin=subprocess.PIPE)
    with contextlib.suppress(BrokenPipeError), process:  # it may end early, with a code
        assert process.stdin is not None
        for picture, seconds in frames:
            process.stdin.write(picture.tobytes() * round(seconds * fps))
    if process.returncode:
        raise OSError(f"{out}: ffmpeg ended with code {process.returncode}")
    os.replace(temporary, out)
