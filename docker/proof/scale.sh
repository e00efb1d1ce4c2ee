# shellcheck shell=bash
# The profile `scale`: three nodes over a PostgreSQL, behind a balancer.

# Something goes down in each round; each kind once before any has its second turn.
readonly KINDS=(kill_a_node cut_off_from_the_database kill_all_nodes kill_the_database restart_the_database
    restart_the_balancer cut_off_from_the_balancer)
readonly ROUND_EVENTS=12000
# What is left of them without the repeats.
readonly UNIQUE=$((ROUND_EVENTS * 7 / 10))
readonly ROUND=(--events "$ROUND_EVENTS" --dup 0.3 --batch 20 --topics 5 --concurrency 4
    --drop-replies 0.05 --delay 5 --reorder 200 --bursts 0.03 "${PATIENT[@]}")

prove_scale() {
    local round kind rounds=${SCALE_ROUNDS:-${#KINDS[@]}} unique_before unique=0 again=0 starting=() start
    BALANCER_PORT=$(free_port)
    export BALANCER_PORT
    url=http://127.0.0.1:$BALANCER_PORT

    chapter "The README's commands for three nodes"
    run_readme_block 2
    says "the publisher" "$(<"$work/readme.out")" "lost 0, doubled 0"
    kept "all are healthy, and the publisher has verified what it sent"

    chapter "Parts of the cluster go down under load, $rounds times"
    unique_before=$(stats "$url" unique_processed)
    for ((round = 0; round < rounds; round++)); do
        kind=${KINDS[round % ${#KINDS[@]}]}
        suffer "$round" "$kind"
        unique=$((unique + $(report_of "first-$round" unique)))
        again=$((again + $(report_of "first-$round" total) + $(report_of "second-$round" total)))
        check "what is stored" "$(stats "$url" unique_processed)" $((unique_before + unique))
    done
    kept "all $unique events are there, once; $again requests were sent again"

    chapter "The same once more"
    for ((round = 0; round < rounds; round++)); do
        publisher publisher-scale "last-$round" "${ROUND[@]}" --topic-prefix "scale.r$round" --seed "$round" &
        starting+=($!)
    done
    for start in "${starting[@]}"; do wait "$start" || exit; done
    for ((round = 0; round < rounds; round++)); do
        finish_publisher "last-$round"
        check "what the same round stores" "$(report_of "last-$round" stored)" 0
    done
    check "what is stored" "$(stats "$url" unique_processed)" $((unique_before + unique))
    kept "0 are stored"
    docker compose --profile scale down --volumes --timeout 5 >/dev/null 2>&1
}

# Two publishers send the same events at the same time; in the midst of it something goes down, and comes back.
suffer() {
    local round=$1 kind=$2 name before starting=() start
    before=$(stats "$url" unique_processed)
    # In eight seconds: starting a container takes one or two, and the first may not be done before the second begins.
    for name in first second; do
        publisher publisher-scale "$name-$round" "${ROUND[@]}" --rate 1500 --topic-prefix "scale.r$round" --seed "$round" &
        starting+=($!)
    done
    for start in "${starting[@]}"; do wait "$start" || exit; done
    await "a fifth of the events" has_stored "$url" $((before + UNIQUE / 5))
    for name in first second; do
        [[ $(docker inspect --format '{{.State.Running}}' "$prefix-$name-$round") == true ]] ||
            fail "a publisher was over before anything went down: nothing is proved"
    done
    $kind
    for name in first second; do finish_publisher "$name-$round"; done
    kept "${kind//_/ }: $(($(report_of "first-$round" total) + $(report_of "second-$round" total))) requests were sent again"
}

killed() { docker kill --signal KILL "$(container_of "$1")" >/dev/null; }

started() { docker start "$(container_of "$1")" >/dev/null; }

# The balancer fills the first node before it goes on to the next.
kill_a_node() {
    killed aggregator-1
    sleep 1
    started aggregator-1
    await "the node to be back" is_healthy aggregator-1
}

kill_all_nodes() {
    local node
    for node in 1 2 3; do killed aggregator-$node; done
    for node in 1 2 3; do started aggregator-$node; done
    await "a node to be back" is_healthy aggregator-2
}

# For long enough that the balancer notices, and the publishers go on with another node.
cut_off_from_the_database() { cut_off aggregator-1 store; }

cut_off_from_the_balancer() { cut_off aggregator-1 nodes; }

cut_off() {
    local container
    container=$(container_of "$1")
    docker network disconnect "${prefix}_$2" "$container"
    sleep 5
    docker network connect --alias "$1" "${prefix}_$2" "$container"
    await "the node to be healthy again" is_healthy "$1"
}

kill_the_database() {
    killed postgres
    sleep 1
    started postgres
    await "the database to be back" is_healthy postgres
}

restart_the_database() {
    docker restart --time 30 "$(container_of postgres)" >/dev/null
    await "the database to be back" is_healthy postgres
}

restart_the_balancer() {
    docker restart --time 1 "$(container_of balancer)" >/dev/null
    await "the balancer to be back" is_healthy balancer
}
