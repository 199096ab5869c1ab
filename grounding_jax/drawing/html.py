"""What our pages share: each is one HTML file that asks for nothing from outside."""

from __future__ import annotations

import base64
import io

from PIL import Image

_QUALITY = 82  # of JPEG

BASE_STYLE = """
:root { color-scheme: dark; --back: #16181d; --card: #1f2229; --line: #30343e; --text: #f3f4f6; --quiet: #9aa0ac; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 40px 24px 80px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
"""


def embedded(picture: Image.Image, side: int) -> str:
    """A picture, no longer than ``side`` pixels, as the address of itself: JPEG, or PNG if it can be transparent."""
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file, form = io.BytesIO(), "png" if picture.mode == "RGBA" else "jpeg"
    picture.save(file, form, quality=_QUALITY, optimize=True)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
