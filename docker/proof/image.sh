# shellcheck shell=bash
# The image by itself: what it is, and what it says where it cannot work.

readonly MAX_MEGABYTES_ABOVE_BASE=60
# The owner of what the server writes.
readonly OWNER=10001

# Both of them once: what the second one does is cached, and says whether caches are warm when nothing has changed.
build_image() {
    local began
    chapter "The image, with the profile $CARGO_PROFILE"
    began=$SECONDS
    docker compose build --quiet aggregator 2>"$work/build.log" >&2 || fail "the build: $(tail -n 30 "$work/build.log")"
    kept "built in $((SECONDS - began)) s"
    began=$SECONDS
    docker build --quiet --build-arg CARGO_PROFILE="$CARGO_PROFILE" --file docker/Dockerfile --tag "$AGGREGATOR_IMAGE" . \
        >/dev/null 2>"$work/build.log" || fail "the second build: $(tail -n 30 "$work/build.log")"
    ((SECONDS - began < 20)) || fail "a second build of the same took $((SECONDS - began)) s"
    kept "and again in $((SECONDS - began)) s"
}

inspect_image() { docker image inspect --format "{{json .$1}}" "$AGGREGATOR_IMAGE"; }

check_image() {
    chapter "What the image is, and what it refuses"
    check "the user" "$(inspect_image Config.User)" "\"$OWNER:$OWNER\""
    check "the signal to stop" "$(inspect_image Config.StopSignal)" '"SIGTERM"'
    says "the health check" "$(inspect_image Config.Healthcheck.Test)" healthcheck
    says "--version" "$(docker run --rm "$AGGREGATOR_IMAGE" --version)" \
        " $(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.version"}}' "$AGGREGATOR_IMAGE")"
    check_size
    the_door_is_shut
    directories_have_an_owner
    a_single_file_is_refused
    a_read_only_volume_is_refused
    a_full_volume_is_told
}

check_size() {
    local size base above
    size=$(inspect_image Size)
    base=$(docker image inspect --format '{{.Size}}' "$(image_of debian)")
    above=$(((size - base) / 1000000))
    image_size="$((size / 1000000)) MB, $above MB of it above the base"
    if [[ $CARGO_PROFILE == release ]]; then
        ((above <= MAX_MEGABYTES_ABOVE_BASE)) || fail "the image has $image_size"
    fi
    kept "not root, stopped by SIGTERM, asked for its health; $image_size"
}

# refused OPTIONS…: sets `code` and `told` to those of a container that is expected to end by itself.
refused() {
    code=0
    told=$(timeout 30 docker run --rm --name "$prefix-refused" --read-only "$@" 2>&1) || code=$?
}

the_door_is_shut() {
    local key
    # An empty variable counts as unset.
    serve --env AGGREGATOR_ALLOW_ANONYMOUS= "$AGGREGATOR_IMAGE"
    publish_one stranger 401
    says "the image without a key" "$answer" "aggregator-server key new" "--allow-anonymous"
    key=$(docker exec "$prefix-alone" aggregator-server key new --name proof --scope 'publish:*' 2>/dev/null)
    publish_one friend 202 --header "Authorization: Bearer $key"
    publish_one stranger 401
    end_server
    kept "by itself it lets nobody in; a key that its operator makes in the container opens it"
}

# serve OPTIONS…: a server in the background, on a free port; sets `url`.
serve() {
    local port
    port=$(free_port)
    docker run --detach --name "$prefix-alone" --read-only --publish "127.0.0.1:$port:8080" \
        --env AGGREGATOR_ALLOW_ANONYMOUS=true "$@" >/dev/null
    url=http://127.0.0.1:$port
    await "the server to be ready" answers "$url/readyz"
}

answers() { http "$1" >/dev/null 2>&1; }

end_server() {
    docker stop "$prefix-alone" >/dev/null
    check "the exit code after docker stop" "$(docker inspect --format '{{.State.ExitCode}}' "$prefix-alone")" 0
    docker rm --volumes "$prefix-alone" >/dev/null
}

directories_have_an_owner() {
    local directory=$work/bound
    mkdir "$directory"
    refused --env AGGREGATOR_ALLOW_ANONYMOUS=true --volume "$directory:/data" "$AGGREGATOR_IMAGE"
    check "the exit code" "$code" 1
    says "a directory of another owner" "$told" "/data" "ermission denied"
    chown "$OWNER:$OWNER" "$directory"
    serve --volume "$directory:/data" "$AGGREGATOR_IMAGE"
    publish_one owner 202
    end_server
    [[ -s $directory/aggregator.db ]] || fail "the store is not where it was to be"
    kept "a bound directory has to belong to $OWNER; as another's it is refused with words"
}

# publish_one ID STATUS CURL_OPTIONS…: the answer is in `answer`.
publish_one() {
    local status id=$1 wanted=$2
    shift 2
    status=$(curl --silent --noproxy '*' --max-time 40 --output "$work/answer" --write-out '%{http_code}' "$url/publish" \
        --header 'content-type: application/json' --data "{\"topic\":\"proof\",\"event_id\":\"$id\"}" "$@") || true
    answer=$(<"$work/answer")
    check "the status of a publish ($answer)" "$status" "$wanted"
}

a_single_file_is_refused() {
    install --owner $OWNER --group $OWNER --mode 0600 /dev/null "$work/single.db"
    refused --env AGGREGATOR_ALLOW_ANONYMOUS=true --volume "$work/single.db:/data/aggregator.db" "$AGGREGATOR_IMAGE"
    check "the exit code" "$code" 1
    says "a single file that is mounted" "$told" "/data/aggregator.db" "mount"
    kept "a single bound file is refused with words"
}

a_read_only_volume_is_refused() {
    docker volume create "$prefix-volume" >/dev/null
    refused --env AGGREGATOR_ALLOW_ANONYMOUS=true --volume "$prefix-volume:/data:ro" "$AGGREGATOR_IMAGE"
    docker volume rm "$prefix-volume" >/dev/null
    check "the exit code" "$code" 1
    says "a read-only volume" "$told" "/data" "ead-only file system"
    kept "a read-only volume is refused with words"
}

# What was acknowledged before stays, and can be read.
a_full_volume_is_told() {
    serve --tmpfs "/data:size=8m,uid=$OWNER,gid=$OWNER" "$AGGREGATOR_IMAGE"
    publish_one before 202
    docker exec "$prefix-alone" sh -c 'cat /dev/zero >/data/filler' 2>/dev/null || true
    fill_up
    says "a full volume" "$answer" "full"
    says "a page, while the volume is full" "$(http "$url/events?topic=proof&limit=1")" '"event_id":"before"'
    docker exec "$prefix-alone" rm /data/filler
    await "a volume with room to take events again" takes_events
    end_server
    kept "a full volume is told, what it holds is read on, and it takes events again once there is room"
}

# The log has some room of its own.
fill_up() {
    local n status
    for n in $(seq 2000); do
        status=$(curl --silent --noproxy '*' --max-time 40 --output "$work/answer" --write-out '%{http_code}' "$url/publish" \
            --header 'content-type: application/json' \
            --data "{\"topic\":\"proof\",\"event_id\":\"fill-$n\",\"payload\":\"$(printf '%04000d' 0)\"}")
        answer=$(<"$work/answer")
        [[ $status == 202 ]] || return 0
    done
    fail "a volume of 8 MB takes 8 MB of events"
}

takes_events() {
    http "$url/publish" --header 'content-type: application/json' --data '{"topic":"proof","event_id":"after"}' >/dev/null 2>&1
}
