#!/bin/sh
# Makes the images that the Docker tests run, without any registry: p2pnode-test:1, a static busybox
# and nothing else; p2pnode-test-odd:1, the same with what an image can ask for against our will;
# p2pnode-test-bare:1, with two programs and no shell; and p2pnode-test-tools:1, the first with this
# machine's own git and rsync, for programs that need themselves at the other end. Does nothing when
# the engine has them already.
# Needs a Docker engine that answers (.ci/engine starts one), and on Debian apt-get, or a static
# busybox named by P2PNODE_BUSYBOX.
set -eu

image=p2pnode-test:1
odd=p2pnode-test-odd:1
tools=p2pnode-test-tools:1
bare=p2pnode-test-bare:1

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM

# Busybox is whatever program its file is called.
make_bare() {
    if docker image inspect "$bare" >/dev/null 2>&1; then
        return
    fi
    mkdir -p "$dir/bare/bin" "$dir/bare/tmp" "$dir/bare/work" "$dir/bare/etc" "$dir/bare/proc" "$dir/bare/sys" "$dir/bare/dev"
    chmod 1777 "$dir/bare/tmp"
    container=$(docker create --network none "$image")
    docker cp "$container:/bin/busybox" "$dir/bare/bin/sleep"
    docker rm "$container" >/dev/null
    cp "$dir/bare/bin/sleep" "$dir/bare/bin/cat"
    tar -C "$dir/bare" --numeric-owner --owner=0 --group=0 -c . |
        docker import --change 'ENV PATH=/bin' - "$bare" >/dev/null
    docker image inspect --format '{{.RepoTags}} {{.Size}} bytes' "$bare"
}

# Adds git and rsync with the libraries that they name to the first image. Whoever has no use for the
# tests that need them needs neither.
make_tools() {
    if docker image inspect "$tools" >/dev/null 2>&1; then
        return
    fi
    if ! command -v git >/dev/null || ! command -v rsync >/dev/null; then
        echo "test-image: without git and rsync here there is no $tools: install both to have it" >&2
        return
    fi
    mkdir -p "$dir/tools/bin"
    for program in git rsync; do
        from=$(command -v "$program")
        cp -L "$from" "$dir/tools/bin/$program"
        # Every path in what ldd says is a file to be had at the same place.
        ldd "$from" | tr ' \t' '\n\n' | sed -n '/^\//p' | while read -r library; do
            mkdir -p "$dir/tools$(dirname "$library")"
            cp -L "$library" "$dir/tools$library"
        done
    done
    # The two programs that git starts at the other end are git by another name.
    ln -s git "$dir/tools/bin/git-upload-pack"
    ln -s git "$dir/tools/bin/git-receive-pack"
    container=$(docker create --network none "$image")
    tar -C "$dir/tools" --numeric-owner --owner=0 --group=0 -c . | docker cp - "$container:/"
    docker commit "$container" "$tools" >/dev/null
    docker rm "$container" >/dev/null
    docker image inspect --format '{{.RepoTags}} {{.Size}} bytes' "$tools"
}

if docker image inspect "$image" "$odd" >/dev/null 2>&1; then
    make_bare
    make_tools
    exit 0
fi

root=$dir/root
mkdir -p "$root/bin" "$root/tmp" "$root/work" "$root/etc" "$root/proc" "$root/sys" "$root/dev"
chmod 1777 "$root/tmp"

if [ -n "${P2PNODE_BUSYBOX:-}" ]; then
    cp "$P2PNODE_BUSYBOX" "$root/bin/busybox"
else
    # `apt-get download` drops its rights to _apt, who must be able to write here.
    mkdir "$dir/deb"
    chmod 755 "$dir"
    chmod 777 "$dir/deb"
    (cd "$dir/deb" && { apt-get download -qq busybox-static || { apt-get update -qq && apt-get download -qq busybox-static; }; }) >"$dir/log" 2>&1 || {
        cat "$dir/log" >&2
        echo "test-image: cannot download busybox-static: name a static busybox in P2PNODE_BUSYBOX" >&2
        exit 1
    }
    dpkg-deb -x "$dir"/deb/*.deb "$dir/deb/out"
    # /bin, or /usr/bin where the two are one; the package has other files of that name.
    cp "$(find "$dir/deb/out" -type f -path '*/bin/busybox')" "$root/bin/busybox"
fi
chmod 755 "$root/bin/busybox"
"$root/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

# Name of the image, then what `docker import --change` takes.
import() {
    name=$1
    shift
    tar -C "$root" --numeric-owner --owner=0 --group=0 -c . |
        docker import --change 'ENV PATH=/bin' "$@" - "$name" >/dev/null
    docker image inspect --format '{{.RepoTags}} {{.Size}} bytes' "$name"
}
import "$image" --change 'CMD ["/bin/sh"]'
import "$odd" --change 'USER 0:0' --change 'WORKDIR /etc' --change 'VOLUME ["/data","/work"]' \
    --change 'ENTRYPOINT ["/bin/false"]' --change 'CMD ["no"]' --change 'EXPOSE 80'
make_bare
make_tools
