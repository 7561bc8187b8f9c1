# `make image` builds this file with Docker, Podman or buildah. You can replace both base images. The build image needs Rust and a C
# compiler on Debian 13 or older. The runtime image needs CA certificates and a C library at least as new as the build image's.
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
# Paths in the binary (panics, line tables) must not identify the build machine.
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
# The dependencies have their own layer, which a cache exporter can keep. It changes with Cargo.lock, the manifests of the workspace and FEATURES.
COPY --from=plan /src/recipe.json recipe.json
# `sandbox` adds the commands `demo` and `sandbox`, for trials (compose.yaml). The production image has no sandbox.
ARG FEATURES=""
RUN cargo chef cook --release --locked --no-default-features --features "${FEATURES}" \
    --bin instant-connect-worker --recipe-path recipe.json
COPY . .
# `auditable` adds the list of dependencies to the binary, for scanners. Line tables go into a separate file.
RUN cargo auditable build --release --locked --no-default-features --features "${FEATURES}" --bin instant-connect-worker \
    && install -d /out/lib/instant-connect-worker \
    && objcopy --only-keep-debug target/release/instant-connect-worker /out/instant-connect-worker.debug \
    && objcopy --strip-debug --add-gnu-debuglink=/out/instant-connect-worker.debug \
       target/release/instant-connect-worker /out/instant-connect-worker

# Only the line tables: `--target debug`.
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
# The directory of the ledger. Platforms that choose the user themselves (OpenShift) use group 0. No VOLUME: it would create an
# anonymous volume at each run, which is lost with the container.
COPY --from=build --chown=65532:0 --chmod=0770 /out/lib/ /var/lib/
# Numeric, so that Kubernetes can verify that the user is not root.
USER 65532:65532
WORKDIR /var/lib/instant-connect-worker
# Metrics and health for other containers and the host. These pages neither need nor show a secret.
ENV ICW_ADMIN__LISTEN=0.0.0.0:9464
# Thread stacks large enough for the most deeply nested message headers (src/cli/stack.rs). Without it the program restarts itself.
ENV RUST_MIN_STACK=67108864
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/instant-connect-worker", "health", "--live"]
ENTRYPOINT ["/usr/local/bin/instant-connect-worker"]
CMD ["run"]
