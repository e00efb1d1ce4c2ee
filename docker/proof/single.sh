# shellcheck shell=bash
# The default profile: one aggregator over a file in a volume.

# Under way for seven seconds, in which the server is killed twice.
readonly LOAD_EVENTS=40000 LOAD_SEED=7
# Does not give up before the server is back.
readonly PATIENT=(--retry-base-ms 5 --retry-cap-ms 200 --retry-attempts 1000000 --retry-deadline-ms 120000)
readonly LOAD=(--events "$LOAD_EVENTS" --dup 0.2 --batch 20 --seed "$LOAD_SEED" "${PATIENT[@]}")

prove_single() {
    API_PORT=$(free_port)
    export API_PORT
    url=http://127.0.0.1:$API_PORT

    chapter "The README's commands for one aggregator"
    run_readme_block 1
    says "the publisher" "$(<"$work/readme.out")" "lost 0, doubled 0"
    kept "it is healthy, and the publisher has verified what it sent"
    publish_one from-the-host 202
    says "the answer to the host" "$answer" '"outcome":"stored"'
    publish_one from-the-host 202
    says "the answer to a repeat" "$answer" '"outcome":"duplicate"'
    says "the published port" "$(docker compose port aggregator 8080)" 127.0.0.1
    kept "the host publishes on loopback, and a repeat is recognised"

    a_kill_loses_nothing
    a_volume_outlives_its_container
    docker compose --profile publish down --volumes --timeout 20 >/dev/null 2>&1
}

a_kill_loses_nothing() {
    local container before
    chapter "The aggregator is killed under load, twice"
    container=$(container_of aggregator)
    before=$(stats "$url" unique_processed)
    publisher publisher load "${LOAD[@]}" --rate 6000
    await "a fifth of the load" has_stored "$url" $((before + LOAD_EVENTS / 5))
    docker kill --signal KILL "$container" >/dev/null
    check "the exit code" "$(docker wait "$container")" 137
    docker start "$container" >/dev/null
    await "two fifths of the load" has_stored "$url" $((before + LOAD_EVENTS * 2 / 5))
    crash "$container"
    await "the aggregator to be back" is_healthy aggregator
    finish_publisher load
    (($(report_of load total) > 0)) || fail "no request was hit: nothing is proved"
    check "what is stored" "$(stats "$url" unique_processed)" $((before + $(report_of load unique)))
    kept "the publisher sent $(report_of load total) requests again; all $(report_of load unique) events are there, once"
}

# Kills the process and not the container, which the engine has to start anew by itself.
crash() {
    kill -KILL "$(docker inspect --format '{{.State.Pid}}' "$1")" || fail "the process is not on this machine"
    await "the engine to start it again" restarted "$1"
}

restarted() { (($(docker inspect --format '{{.RestartCount}}' "$1") > 0)); }

a_volume_outlives_its_container() {
    local before
    chapter "down, and up with the same volume"
    before=$(stats "$url" unique_processed)
    docker compose stop aggregator >/dev/null 2>&1
    check "the exit code after stop" "$(docker inspect --format '{{.State.ExitCode}}' "$(container_of aggregator)")" 0
    docker compose --profile publish down >/dev/null 2>&1
    [[ -z $(container_of aggregator) ]] || fail "the container is still there"
    docker compose up --detach --wait >/dev/null 2>"$work/up.log" || fail "up: $(<"$work/up.log")"
    check "what is stored" "$(stats "$url" unique_processed)" "$before"
    publisher publisher again "${LOAD[@]}"
    finish_publisher again
    check "what the same load stores" "$(report_of again stored)" 0
    check "what is stored" "$(stats "$url" unique_processed)" "$before"
    kept "all $before events are there, and the same load once more stores 0"
}
