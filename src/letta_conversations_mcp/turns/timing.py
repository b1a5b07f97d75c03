"""How often this server polls Letta and reports, and how long it keeps trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """All in seconds.

    `unseen` is how long Letta may have a run without listing it: 0.2 to 0.4 s after the request came in (0.16.8).
    `settle` is how long a message without any trace may still turn up, when Letta is busy. `confirm` is the least that
    a call waits for Letta to acknowledge its message: below five seconds, after which some clients give up. `look_up`
    is the least that a call may take to find where its message goes. `stopped` is how long the end of a cancelled
    turn's stream is waited for: before it, nobody knows what of the turn stays in the history. `silence` is how long a
    run that can only be asked for may be active without storing anything before it counts as dead: longer than any call
    of a model, because a run stores nothing during one (a stream shows a sign of life every 20 seconds, see
    `--silence-timeout`). `give_up` bounds the asking of a server that does not answer.
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
