"""Agents on this machine: Letta Code's App Server with its local backend, started when it is first needed.

`process` and `supervisor` run one server per state folder, `connection` talks to it, and `backend` implements the
operations. Needs the extra `local`; importing this package imports none of it.
"""
