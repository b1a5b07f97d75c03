# syntax=docker/dockerfile:1

# Pin it with --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:…, which
# `docker buildx imagetools inspect python:3.12-slim` shows; compose takes PYTHON_IMAGE from deploy/.env.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/build && python -m venv /opt/app
COPY deploy/image-requirements.txt deploy/image-build-requirements.txt ./
# Nothing is installed but files with these hashes; make image-requirements writes them.
RUN /opt/build/bin/pip install --require-hashes --requirement image-build-requirements.txt \
    && /opt/app/bin/pip install --require-hashes --requirement image-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist . \
    && /opt/app/bin/pip install --no-deps --no-index dist/*.whl \
    && /opt/app/bin/pip uninstall --yes pip


FROM ${PYTHON_IMAGE}
LABEL io.modelcontextprotocol.server.name="io.github.OWNER/letta-conversations-mcp"
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --no-create-home --home-dir / --shell /usr/sbin/nologin app
COPY --from=build /opt/app /opt/app
ENV PATH=/opt/app/bin:$PATH \
    # The modules are compiled at the build, and the file system may be read-only.
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LETTA_MCP_HOST=0.0.0.0 \
    LETTA_MCP_LOG_FORMAT=json \
    LETTA_MCP_LOG_LEVEL=INFO
USER 10001:10001
EXPOSE 8000
# Past any proxy that the container is told of. podman and buildah keep a health check with --format docker only.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "\
import os, urllib.request as http; \
url = f'http://127.0.0.1:{os.environ.get(\"LETTA_MCP_PORT\", 8000)}/healthz'; \
http.build_opener(http.ProxyHandler({})).open(url, timeout=4)"]
ENTRYPOINT ["letta-conversations-mcp"]
CMD ["serve", "--http"]
