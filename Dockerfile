# syntax=docker/dockerfile:1
# `make image` builds this with Docker, Podman or buildah. Both base images can be others of the same kind: the first with Rust
# and a C compiler on Debian 13 or older, the second with a C library at least as new, and CA certificates.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-trixie
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian13:nonroot

FROM ${BUILD_IMAGE} AS chef
RUN cargo install --locked --version 0.1.78 cargo-chef \
    && cargo install --locked --version 0.7.7 cargo-auditable
WORKDIR /src

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
# Paths in the binary (panics, line tables) must not name the machine that built it.
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
# The dependencies are a layer of their own, which a cache exporter can keep; it changes with Cargo.lock alone.
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --release --locked --bin instant-connect-worker --recipe-path recipe.json
COPY . .
# With `auditable` the list of dependencies is in the binary, for scanners. Line tables go into a file of their own.
RUN cargo auditable build --release --locked --bin instant-connect-worker \
    && install -d /out/lib/instant-connect-worker \
    && objcopy --only-keep-debug target/release/instant-connect-worker /out/instant-connect-worker.debug \
    && objcopy --strip-debug --add-gnu-debuglink=/out/instant-connect-worker.debug \
       target/release/instant-connect-worker /out/instant-connect-worker

# The line tables alone: `--target debug`.
FROM scratch AS debug
COPY --from=build /out/instant-connect-worker.debug /

FROM ${RUNTIME_IMAGE}
ARG RUNTIME_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="instant-connect-worker" \
      org.opencontainers.image.description="Turns start-video-session events from RabbitMQ into Webex Instant Connect links" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/instant-connect-worker/instant-connect-worker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${RUNTIME_IMAGE}"
COPY --from=build --chown=0:0 --chmod=0755 /out/instant-connect-worker /usr/local/bin/instant-connect-worker
# The ledger's place. Platforms that choose a user of their own (OpenShift) give it group 0. No VOLUME: it would make an
# anonymous volume at each run, which nobody keeps.
COPY --from=build --chown=65532:0 --chmod=0770 /out/lib/ /var/lib/
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /var/lib/instant-connect-worker
# Metrics and health, for what runs beside the container; nothing there needs or shows a secret.
ENV ICW_ADMIN__LISTEN=0.0.0.0:9464
# Stacks on which the deepest headers of a message can be read (src/cli/stack.rs): without it the program starts itself again.
ENV RUST_MIN_STACK=67108864
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/instant-connect-worker", "health", "--live"]
ENTRYPOINT ["/usr/local/bin/instant-connect-worker"]
CMD ["run"]
