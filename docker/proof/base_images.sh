# shellcheck shell=bash
# What the proof is made with: Compose, the base images, and stand-ins for those that are not to be had.

# What was made here, and is removed at the end.
stand_ins=()
# Stand-ins that an earlier run has made and kept.
kept_stand_ins=()
# The same for a reader: a line each.
tools=()
image_size=''

# Marks an image as a stand-in, and all that is built on it.
readonly STAND_IN_LABEL=event-aggregator.stand-in

# image_of REPOSITORY: the image, with its tag, that the Dockerfile or docker/compose.yml names.
image_of() {
    sed -n "s/^FROM \($1:[^ ]*\).*/\1/p; s/^ *image: \($1:.*\)/\1/p" docker/Dockerfile docker/compose.yml | head -n 1
}

is_here() { docker image inspect "$1" >/dev/null 2>&1; }

is_stand_in() { docker image inspect --format '{{json .Config.Labels}}' "$1" | grep -q "$STAND_IN_LABEL"; }

find_base_images() {
    chapter "The base images"
    local repository image missing=()
    for repository in debian rust postgres haproxy; do
        image=$(image_of $repository)
        [[ -n $image ]] || fail "neither the Dockerfile nor docker/compose.yml names an image of $repository"
        if [[ -n $from_nothing ]] || ! { is_here "$image" || timeout 600 docker pull --quiet "$image" >/dev/null 2>&1; }; then
            missing+=("$repository")
        elif is_stand_in "$image"; then
            kept_stand_ins+=("$image")
            kept "$image: a stand-in that an earlier run has kept"
        else
            kept "$image"
        fi
    done
    ((${#missing[@]} == 0)) || make_stand_ins "${missing[@]}"
}

# Debian first, which the others are made of.
make_stand_ins() {
    local repository image base=$prefix-base makers=() maker
    make_debian "$base"
    mkdir "$work/rust"
    for repository; do
        image=$(image_of "$repository")
        stand_ins+=("$image")
        if [[ $repository == debian ]]; then
            docker tag "$base" "$image"
            continue
        fi
        [[ $repository != rust ]] || collect_toolchain "$work/rust"
        local context=docker/stand-ins
        [[ $repository != rust ]] || context=$work/rust
        docker build --build-arg BASE="$base" --file "docker/stand-ins/$repository.Dockerfile" --tag "$image" "$context" \
            >"$work/$repository.log" 2>&1 &
        makers+=($!)
    done
    # They wait for packages more than for a processor.
    for maker in "${makers[@]}"; do
        wait "$maker" || fail "a stand-in cannot be made: $(tail -n 15 "$work"/*.log)"
    done
    for repository; do kept "$(image_of "$repository"): a stand-in, $(version_in "$repository")"; done
}

# Leaves out what nobody needs in a container, as the official image does.
make_debian() {
    local release root=$work/debian
    release=$(image_of debian | sed 's/.*:\([a-z]*\).*/\1/')
    command -v debootstrap >/dev/null || fail "no base image can be pulled or made: debootstrap is not installed"
    debootstrap --variant=minbase "$release" "$root" >"$work/debootstrap.log" 2>&1 ||
        fail "debootstrap, which has to be root's: $(tail -n 5 "$work/debootstrap.log")"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    tar --directory "$root" --create . |
        docker import --change 'CMD ["bash"]' --change "LABEL $STAND_IN_LABEL=true" - "$1" >/dev/null
    stand_ins+=("$1")
    rm -rf "$root"
}

# The compiler of this machine has to be the one that the Dockerfile asks for.
collect_toolchain() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    says "rustc --version" "rust:$(rustc --version | cut -d ' ' -f 2)" "$(image_of rust | cut -d - -f 1)"
    mkdir "$1/toolchain"
    (cd "$sysroot" && tar --create bin/cargo bin/rustc lib/*.so* lib/rustlib/*-linux-gnu) |
        tar --directory "$1/toolchain" --extract
    cp /etc/ssl/certs/ca-certificates.crt "$1"
}

version_in() {
    local image
    image=$(image_of "$1")
    case $1 in
    debian) echo "Debian $(docker run --rm "$image" cat /etc/debian_version)" ;;
    rust) docker run --rm "$image" rustc --version ;;
    postgres) docker run --rm --entrypoint postgres "$image" --version ;;
    haproxy) docker run --rm "$image" haproxy -v | head -n 1 ;;
    esac
}

# The README says `docker compose`, which Debian 12 has no package of; the release of the base image has one, and Buildx.
find_plugins() {
    chapter "The engine and its tools"
    docker compose version >/dev/null 2>&1 || borrow_plugins
    tools=(
        "engine $(docker version --format '{{.Server.Version}}'), client $(docker version --format '{{.Client.Version}}')"
        "$(docker compose version)"
        "$(docker buildx version 2>/dev/null || echo 'no Buildx: the classic builder')"
    )
    for tool in "${tools[@]}"; do kept "$tool"; done
}

# The engine's client looks for plugins in its directory of settings, too: it gets a copy of the caller's with them.
borrow_plugins() {
    local settings=$work/docker
    mkdir "$settings"
    cp --recursive "${DOCKER_CONFIG:-$HOME/.docker}/." "$settings" 2>/dev/null || true
    docker run --name "$prefix-plugins" "$(image_of debian)" sh -euc '
        apt-get update -o Acquire::Languages=none
        cd "$(mktemp -d)"
        apt-get download docker-compose docker-buildx
        for package in *.deb; do dpkg-deb --extract "$package" unpacked; done
        mv unpacked/usr/libexec/docker/cli-plugins /' >"$work/plugins.log" 2>&1 ||
        fail "no Compose, and none to be had: $(tail -n 5 "$work/plugins.log")"
    docker cp "$prefix-plugins:/cli-plugins" "$settings" >/dev/null
    docker rm "$prefix-plugins" >/dev/null
    export DOCKER_CONFIG=$settings
    docker compose version >/dev/null || fail "the Compose that was found does not run here"
}
