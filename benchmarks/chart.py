"""The chart of `docs/images/speed.svg`: how long one reply takes over HTTP, for some numbers of messages in flight.

A panel for each number, a bar for each side, the length in its own panel's scale.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from benchmarks.replies import OURS, Delays

FILE = Path(__file__).parents[1] / "docs/images/speed.svg"

TITLE = "How long one reply takes over HTTP, with a model that takes no time"

WIDTH = 720
LABEL = 190
BAR = 18
ROW = 26
PANEL_HEAD = 34
TOP = 78
RIGHT = 90

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 17px }
.note, .panel { fill: #57606a }
.panel { font-weight: 600 }
.bar { fill: #afb8c1 }
.ours { fill: #1f6feb }
.us { font-weight: 600 }
rect.page { fill: #fff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note, .panel { fill: #9198a1 }
  .bar { fill: #565f6a } .ours { fill: #4493f8 } rect.page { fill: #0d1117 }
}
"""


def draw(delays: Delays, versions: str) -> str:
    """The chart as SVG. `delays` are in seconds."""
    parts: list[str] = []
    y = TOP
    for count, sides in delays.items():
        many = "one message at a time" if count == 1 else f"{count} messages in flight"
        parts.append(f'<text class="panel" x="16" y="{y + 14}">{many}</text>')
        y += PANEL_HEAD - 8
        longest = max(sides.values())
        for name, seconds in sorted(sides.items(), key=lambda side: side[1]):
            length = (WIDTH - LABEL - RIGHT) * seconds / longest
            bar, text = ("ours", ' class="us"') if name == OURS else ("bar", "")
            parts += [
                f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end"{text}>{escape(name)}</text>',
                f'<rect class="{bar}" x="{LABEL}" y="{y}" width="{length:.0f}" height="{BAR}" rx="2"/>',
                f'<text x="{LABEL + length + 8:.0f}" y="{y + 14}"{text}>{_ms(seconds)}</text>',
            ]
            y += ROW
        y += 14
    height = y + 6
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{TITLE}">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="16" y="30">{TITLE}</text>',
        f'<text class="note" x="16" y="52">Median; shorter is better. {escape(versions)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
