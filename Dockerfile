# syntax=docker/dockerfile:1
# The image of chakra-sender: the program, certificate authorities, and busybox for the health check. No
# shell in the path, not root. Built on Debian 12, since that is what the tests run on.

FROM busybox:1.37.0-musl AS busybox

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
# The dependencies alone: this layer is built anew only when one of these three changes. Cargo.toml takes
# two of the crates from vendor/.
COPY Cargo.toml Cargo.lock ./
COPY vendor vendor
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --locked --release --bin chakra-sender
# Compiled in: the defaults, the sandbox and the demo.
COPY config config
COPY src src
# COPY keeps the times of files, and Cargo goes by them: both must be later than their stubs'.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --release --bin chakra-sender \
    && mkdir /state

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="chakra-sender" \
      org.opencontainers.image.description="Sends WhatsApp messages through ChakraHQ: jobs from RabbitMQ in, exactly one result each out" \
      org.opencontainers.image.licenses="MIT"
COPY --from=busybox /bin/busybox /usr/bin/busybox
COPY --from=build /src/target/release/chakra-sender /usr/bin/chakra-sender
# A volume mounted here is writable for the user below. Nothing else has to be: the root may be read-only.
COPY --from=build --chown=65532:65532 /state /var/lib/chakra-sender
USER 65532:65532
# /metrics, /livez and /readyz, where admin.listen lets them out; webhooks, where webhook.listen does.
EXPOSE 9464 9465
# Of `worker` with the default port of admin.listen. Alive, not ready: a broker that is away is waited for,
# and a restart would not bring it back.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/usr/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9464/livez"]
ENTRYPOINT ["/usr/bin/chakra-sender"]
CMD ["worker"]
