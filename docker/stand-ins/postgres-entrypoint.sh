#!/usr/bin/env bash
# The part of the official image's entrypoint that docker/compose.yml uses: makes the database once, then serves it.
set -euo pipefail

as_postgres() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    if [[ -z ${POSTGRES_PASSWORD:-} ]]; then
        echo "postgres: no password: set POSTGRES_PASSWORD" >&2
        exit 1
    fi
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    password=$(as_postgres mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password"
    # Several words, as in the official image.
    # shellcheck disable=SC2086
    as_postgres initdb --username "$POSTGRES_USER" --pwfile "$password" --auth-host scram-sha-256 --auth-local trust \
        ${POSTGRES_INITDB_ARGS:-}
    rm "$password"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    as_postgres pg_ctl start --wait --options "-c listen_addresses=''"
    as_postgres createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    as_postgres pg_ctl stop --wait --mode fast
fi
exec setpriv --reuid postgres --regid postgres --init-groups "$@" -c listen_addresses='*'
