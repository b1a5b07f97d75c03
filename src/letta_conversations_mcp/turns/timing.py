"""How often this server polls Letta and reports, and how long it keeps trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """All in seconds.

    `unseen` is how long Letta may have a run without listing it: 0.2 to 0.4 s after the request came in (0.16.8).
    `settle` is how long a message without any trace may still turn up when Letta is busy. `confirm` is the least time a
    call waits for Letta to acknowledge its message: below five seconds, after which some clients give up. `look_up` is
    the least time a call has to find its conversation. `stopped` is how long to wait for the stream of a cancelled turn
    to end: only then is it known what stays in the history. `silence` is how long a run that is polled may be active
    without storing anything before it counts as dead: longer than any model call, because a run stores nothing during
    one (streams have a ping every 20 seconds, see `--silence-timeout`). `give_up` bounds the polling of a server that
    does not answer.
    """

    report_at_most_every: float = 1.0
    report_at_least_every: float = 10.0
    poll_first: float = 0.3
    poll_longest: float = 3.0
    unseen: float = 0.6
    settle: float = 5.0
    confirm: float = 4.0
    look_up: float = 10.0
    stopped: float = 2.0
    silence: float = 600.0
    give_up: float = 120.0
