"""Agents of this machine: Letta Code's App Server with its local backend, started when it is needed.

`process` and `keeper` run one server for each state folder, `link` talks with it, `backend` speaks the verbs. Needs the
extra `local`; importing this package imports none of it.
"""
