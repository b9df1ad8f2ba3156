ARG BASE_IMAGE=docker.io/library/python:3.13.15-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV PIP_CACHE_DIR=/cache/pip \
    UV_CACHE_DIR=/cache/uv
RUN --mount=type=cache,target=/cache \
    python3 -m venv /uv && /uv/bin/pip install uv==${UV_VERSION}
ENV UV_PROJECT_ENVIRONMENT=/opt/roundtrip \
    UV_PYTHON_DOWNLOADS=never \
    UV_SYSTEM_CERTS=true \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /src
# The dependencies first: they change less often than the code. The embedded PostgreSQL is an extra and stays away.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/cache \
    /uv/bin/uv sync --locked --no-dev --no-install-project
COPY README.md ./
COPY db db
COPY migrations migrations
COPY service service
RUN --mount=type=cache,target=/cache \
    /uv/bin/uv sync --locked --no-dev --no-editable && rm -f /opt/roundtrip/.lock

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 roundtrip \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin roundtrip
COPY --from=build /opt/roundtrip /opt/roundtrip
ENV PATH=/opt/roundtrip/bin:$PATH
# The official image has its standard library uncompiled, and nobody may write it later: compile what is used of it.
RUN python3 -c "import service.asgi" && roundtrip migrate sql > /dev/null

ENV ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/tmp/roundtrip
# Late, for they change with every build.
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Roundtrip" \
      org.opencontainers.image.description="The backend of a multi-user todo service: one request, one statement, one round trip." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
USER 10001:10001
WORKDIR /opt/roundtrip
EXPOSE 8000
# It waits 2 seconds for an answer; the timeout also counts the start of Python, which a busy machine delays.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["roundtrip", "health"]
ENTRYPOINT ["roundtrip"]
CMD ["serve"]
