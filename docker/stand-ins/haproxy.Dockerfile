# For the official image of HAProxy, where no registry can be reached: what Debian has.
ARG BASE
FROM $BASE
RUN apt-get update -o Acquire::Languages=none \
    && apt-get install --yes --no-install-recommends haproxy wget \
    && rm -rf /var/lib/apt/lists/*
USER haproxy
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
