# shellcheck shell=bash
# What the parts of scripts/containers share. It sets these: prefix, work, from_nothing, keep.

# Nothing here takes nearly as long; what does is stuck.
readonly PATIENCE_SECONDS=120

chapter() { printf '\n%s  [%d s]\n' "$*" "$SECONDS"; }

kept() { printf '  ✓ %s\n' "$*"; }

fail() {
    printf '  ✗ %s\n' "$*" >&2
    local container
    for container in $(docker ps --all --quiet --filter "name=$prefix"); do
        printf '\n%s ends with:\n' "$(docker inspect --format '{{.Name}} {{.State.Status}} {{.State.ExitCode}}' "$container")" >&2
        docker logs --tail 10 "$container" >&2 2>&1 || true
    done
    exit 1
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    # The profiles by name: not every version of Compose knows a word for all of them.
    docker compose --profile publish --profile scale down --volumes --remove-orphans --timeout 0 >/dev/null 2>&1 || true
    docker ps --all --quiet --filter "name=$prefix" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null || true
    docker volume ls --quiet --filter "name=$prefix" | xargs --no-run-if-empty docker volume rm >/dev/null || true
    docker network ls --quiet --filter "name=$prefix" | xargs --no-run-if-empty docker network rm >/dev/null || true
    if [[ -z $keep ]]; then
        for image in "$prefix" "${stand_ins[@]}"; do
            docker image rm --force "$image" >/dev/null 2>&1 || true
        done
    fi
    rm -rf "$work"
    exit "$status"
}

# await WHAT CONDITION…: comes back once the condition holds.
await() {
    local what=$1 deadline=$((SECONDS + PATIENCE_SECONDS))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "waited $PATIENCE_SECONDS s in vain for $what"
        sleep 0.1
    done
}

# check WHAT ACTUAL EXPECTED
check() { [[ $2 == "$3" ]] || fail "$1: $2 instead of $3"; }

# says WHAT TEXT WORDS…: every word, or sequence of words, has to be in the text.
says() {
    local what=$1 text=$2 words
    shift 2
    for words; do
        [[ $text == *"$words"* ]] || fail "$what does not say «$words», but: $text"
    done
}

# number NAME < JSON, on a line in which the name is unique.
number() {
    local found
    found=$(sed -n "s/.*\"$1\":\([0-9]\{1,\}\)[,}].*/\1/p")
    [[ -n $found ]] || fail "a number \"$1\" was expected in the JSON, and there is none"
    printf '%s\n' "$found"
}

http() { curl --fail --silent --show-error --noproxy '*' --max-time 10 "$@"; }

# stats URL NAME
stats() { http "$1/stats" | number "$2"; }

has_stored() {
    local stored
    # Nobody answers while something is down.
    stored=$(http "$1/stats" 2>/dev/null | number unique_processed 2>/dev/null) && ((stored >= $2))
}

container_of() { docker compose ps --all --quiet "$1"; }

is_healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$(container_of "$1")") == healthy ]]; }

free_port() {
    local port
    for port in $(shuf --input-range 20000-32000 --head-count 50); do
        if ! { : <>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
    fail "no port is free"
}

# publisher SERVICE NAME OPTIONS…: starts one in the background.
publisher() {
    local service=$1 name=$prefix-$2
    shift 2
    docker compose run --detach --name "$name" "$service" --json "$@" >/dev/null 2>"$work/$name.start" ||
        fail "a publisher does not start: $(<"$work/$name.start")"
}

# finish_publisher NAME: its report is in $work/NAME.json. Its own verdict is its exit code.
finish_publisher() {
    local name=$prefix-$1 code
    code=$(timeout "$PATIENCE_SECONDS" docker wait "$name") || fail "the publisher $1 does not finish"
    docker logs "$name" >"$work/$1.json" 2>"$work/$1.log"
    [[ $code == 0 ]] || fail "the publisher found a promise broken, or was not served (exit code $code): $(<"$work/$1.json")"
    docker rm --volumes "$name" >/dev/null
    for fault in lost doubled out_of_order mismatched; do
        check "$fault of $1" "$(report_of "$1" $fault)" 0
    done
}

# report_of NAME FIELD
report_of() { number "$2" <"$work/$1.json"; }

# Block N of the README's section, run as it is written. What it exports holds from there on. Its output is in
# $work/readme.out.
blocks_run=0
run_readme_block() {
    local commands
    commands=$(readme_blocks | awk -v n="$1" 'BEGIN { RS = "\036" } NR == n')
    [[ -n $commands ]] || fail "the README's section on containers has no block $1"
    printf '  $ %s\n' "${commands//$'\n'/$'\n  $ '}"
    # shellcheck disable=SC2016
    bash -euo pipefail -c "$commands"'
        export -p | sed "s/^declare -x/export/" >"$0"' "$work/exports" >"$work/readme.out" 2>"$work/readme.err" </dev/null ||
        fail "block $1 of the README: $(tail -n 30 "$work/readme.err" "$work/readme.out")"
    # shellcheck source=/dev/null
    source "$work/exports"
    blocks_run=$((blocks_run + 1))
}

# The blocks of commands, each one followed by a separator.
readme_blocks() {
    awk '/^## /{here = /^## Containers$/} here && /^```sh$/{inside = 1; next}
         inside && /^```$/{inside = 0; printf "\036"; next} inside' README.md
}

check_every_block_was_run() {
    check "blocks of the README that were run" $blocks_run "$(readme_blocks | tr -cd '\036' | wc -c)"
}

report() {
    chapter "Every promise was kept."
    printf '  image: %s\n' "$image_size"
    local line
    for line in "${tools[@]}"; do printf '  %s\n' "$line"; done
    for line in "${stand_ins[@]}" "${kept_stand_ins[@]}"; do
        [[ $line == "$prefix"* ]] || printf '  stand-in: %s\n' "$line"
    done
}
