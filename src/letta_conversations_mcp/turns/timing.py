"""How often this server polls Letta and reports, and how long it keeps trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """All in seconds."""

    report_at_most_every: float = 1.0
    report_at_least_every: float = 10.0
    poll_first: float = 0.3
    poll_longest: float = 3.0
    unseen: float = 0.6
    """How long Letta may have a run without listing it: 0.2 to 0.4 s after the request arrived (0.16.8)."""
    settle: float = 5.0
    """How long a message without a trace may still turn up when Letta is busy."""
    confirm: float = 4.0
    """The least time a call waits for Letta to acknowledge its message. Some clients give up after five seconds."""
    look_up: float = 10.0
    """The least time a call has to find its conversation."""
    stopped: float = 2.0
    """Timeout for the end of a cancelled turn's stream: only then is it known what stays in the history."""
    silence: float = 600.0
    """How long a polled run may store nothing before it counts as dead. Longer than any model call, because a run
    stores nothing during one; streams have a ping every 20 seconds (see `--silence-timeout`)."""
    give_up: float = 120.0
    """How long a server that does not answer is polled."""
