"""`make test-pythons`: the tests with every version of Python that is supported."""

import nox

nox.options.default_venv_backend = "uv"


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Python is looked for on PATH, and fetched by uv where it is not there."""
    session.install("--constraint", "constraints.txt", "--editable", ".", "--group", "dev")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)
