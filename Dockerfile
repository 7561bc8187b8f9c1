# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches are BuildKit's (and buildah's): only what changed is compiled again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin instant-connect-worker \
    && install -D target/release/instant-connect-worker /out/instant-connect-worker

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="instant-connect-worker" \
      org.opencontainers.image.description="Turns start-video-session events from RabbitMQ into Webex Instant Connect links" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The system's CA certificates are what TLS to Webex and to the broker is checked against.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 0750 /var/lib/instant-connect-worker
COPY --from=build /out/instant-connect-worker /usr/local/bin/instant-connect-worker
# Without a shell account: a number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /var/lib/instant-connect-worker
# The ledger is written here: mount a volume, or set ledger.kind.
VOLUME /var/lib/instant-connect-worker
# Metrics, for Prometheus beside the container; nothing there needs or shows a secret.
ENV ICW_ADMIN__LISTEN=0.0.0.0:9464
EXPOSE 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/instant-connect-worker"]
CMD ["run"]
