# For the official image of Rust, where no registry can be reached: Debian with the toolchain of this machine.
ARG BASE
FROM $BASE
RUN apt-get update -o Acquire::Languages=none \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local
# Whom this machine trusts: its packages may come through a proxy.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV CARGO_HOME=/usr/local/cargo
