"""What compact and recompile answer."""

from __future__ import annotations

from letta_conversations_mcp.core.untrusted import quoted
from letta_conversations_mcp.tools.results.result import Result


class Compacted(Result):
    conversation_id: str
    messages_before: int
    messages_after: int
    summary: str = ""
    older_listed: bool = True
    note: str = ""

    def to_text(self) -> str:
        older = "stay readable with list_messages" if self.older_listed else "are no longer listed by this backend"
        first = (
            f"Compacted {self.conversation_id}: {self.messages_before} messages in context before, "
            f"{self.messages_after} after. The older ones {older}."
        )
        summary = f"Summary that replaces them:\n{quoted(self.summary)}" if self.summary else ""
        return "\n".join(filter(None, [first, self.note, summary]))


class Recompiled(Result):
    conversation_id: str
    dry_run: bool = False
    changes: str = ""
    prompt: str = ""
    note: str = ""

    def to_text(self) -> str:
        place = f"the copy of the memory in {self.conversation_id}"
        if self.prompt:
            done = f"{'This would be' if self.dry_run else 'Refreshed'} {place}. It is not known what it was before."
        elif self.changes:
            done = f"{'Recompiling would change' if self.dry_run else 'Refreshed'} {place} (- before, + now):"
        else:
            done = (
                f"{'There is nothing to refresh' if self.dry_run else 'Nothing is different'}: {place} was up to date."
            )
        return "\n".join(filter(None, [done, self.note, quoted(self.changes), quoted(self.prompt)]))
