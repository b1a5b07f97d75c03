"""Draws the picture of the chat that the README shows: `python -m tests.cli.chat.picture`.

The entries are those of the program, without a server behind them.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from letta_conversations_mcp.cli.chat.approval_card import Card
from letta_conversations_mcp.cli.chat.entries import PROMPT, AgentText, Fold, Folds, Heading, Note, Said, Title
from letta_conversations_mcp.cli.chat.status import Status
from letta_conversations_mcp.tools.results.viewer import ViewedCall

PICTURE = Path(__file__).parents[3] / "docs" / "images" / "chat.svg"
COLUMNS = 92

REPLY = """Invoice 4711 is due on **Friday, 4 December** (318 €). Two more are open for the same supplier:

| Invoice | Due | Amount |
|---|---|---:|
| 4712 | 15 March | 96 € |
| 4730 | 31 March | 1,204 € |
"""
PAYMENT = {"to": "ACME GmbH, DE89 3704 0044 0532 0130 00", "euros": 318, "reason": "invoice 4711"}


def main() -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard")
    entries = [
        Title("Letta Cloud · bookkeeper (openai/gpt-5.2) · 12 conversations", "/help for commands"),
        Note("Continuing 'invoice 4711' (conv-297c…), last message 24 Nov 14:05. /new starts another."),
        Said("When is invoice 4711 due?"),
        Heading("bookkeeper", "14:02"),
        Folds([Fold("reasoning, 4 s"), Fold('conversation_search("4711") done, 0.8 s')]),
        AgentText(REPLY),
        Said("Pay 4711 today, please."),
        Card("bookkeeper", [ViewedCall(name="wire_money", arguments=json.dumps(PAYMENT))]),
        Note("/deny not before Monday"),
        Heading("bookkeeper", "14:06"),
        AgentText("Understood, I will remind you on Monday.", growing=True),
        Text(f"\n{PROMPT}", style="bold cyan"),
    ]
    for entry in entries:
        console.print(entry, highlight=False)
    status = Status(
        agent="bookkeeper",
        conversation="invoice 4711",
        model="openai/gpt-5.2",
        used=62_000,
        limit=100_000,
        doing="writing its answer, 2 s",
        hint="Ctrl-C stops waiting",
    )
    console.print(Text(status.line(COLUMNS), style="reverse"))
    drawn = console.export_svg(title="lcm chat --agent bookkeeper", theme=DIMMED_MONOKAI, unique_id="chat")
    # Without the font that it would load from elsewhere.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    main()
