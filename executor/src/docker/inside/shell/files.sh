# What reaches a task's files where its provider does not see them: this script, run in the task as its
# user, with the programs of its own image. See `talk.rs` for how it is spoken to.
#
# A request is a line: a mark, what to do, and arguments in which `\0ooo` stands for a byte. The answer
# is what was asked for, or why not, and then a line with the mark and 0 or not 0. What is to be written
# follows its line, and is read to its end whatever becomes of it, or nothing more is done. Reasons are the system's own words,
# at the end of what is said.

LC_ALL=C
export LC_ALL
umask 022

# Without the dot a newline at the end would be lost.
decode() {
    decoded=$(printf '%b.' "$1")
    decoded=${decoded%.}
}

because() {
    printf '%s' "$1"
    return 1
}

is_there() {
    [ -e "$1" ] || [ -L "$1" ]
}

# What stands at a path, links followed: `file`, `folder`, `other` or, with the reason, nothing.
look() {
    kind=$(stat -L -c %f "$1" 2>&1) || {
        why=$kind
        kind=
        return
    }
    case $kind in
    8???) kind=file ;;
    4???) kind=folder ;;
    *) kind=other ;;
    esac
}

# Path, any of r(ead), w(rite), c(reate), t(runcate) and e(xclusive), the rights of a new file.
open() {
    case $2 in
    *e*) ;;
    *)
        look "$1"
        case $kind in
        file) reopen "$1" "$2"; return ;;
        folder) because 'Is a directory'; return ;;
        other) because 'Permission denied'; return ;;
        esac
        case $2 in *c*) ;; *) because "$why"; return ;; esac
        case $why in *'No such file or directory') ;; *) because "$why"; return ;; esac
        ;;
    esac
    if is_there "$1"; then because 'File exists'; return; fi
    (set -C && : >"$1") && chmod "$3" "$1"
}

reopen() {
    case $2 in *r*) [ -r "$1" ] || because 'Permission denied' || return ;; esac
    case $2 in *w*) [ -w "$1" ] || because 'Permission denied' || return ;; esac
    case $2 in *t*) (: >"$1") ;; esac
}

# Path, offset, bytes at most.
read_at() {
    [ -f "$1" ] || because 'No such file or directory' || return
    dd if="$1" bs="$3" count=1 skip="$2" iflag=skip_bytes,fullblock status=none
}

# Passes on the bytes that follow a line. Were they left there, they would be taken for requests: so this
# script ends when they cannot be read. Whoever takes them may give up (141: by SIGPIPE); they are read by then.
data() {
    dd bs="$1" count=1 iflag=fullblock status=none
    case $? in 0 | 141) ;; *) kill -9 $$ ;; esac
}

# Path, offset or `end`, bytes that follow.
write_at() {
    if ! [ -f "$1" ]; then
        data "$3" >/dev/null
        because 'No such file or directory'
    elif [ "$2" = end ]; then
        data "$3" | cat >>"$1"
    else
        data "$3" |
            dd of="$1" bs="$3" seek="$2" iflag=fullblock oflag=seek_bytes conv=notrunc status=none
    fi
}

# Path, names at most, bytes of them at most; each name ends with a zero byte.
list() {
    look "$1"
    [ -n "$kind" ] || because "$why" || return
    [ "$kind" = folder ] || because 'Not a directory' || return
    if ! [ -r "$1" ] || ! [ -x "$1" ]; then because 'Permission denied'; return; fi
    (
        cd "$1" || exit
        left=$2
        room=$3
        for name in * .*; do
            case $name in . | ..) continue ;; esac
            is_there "$name" || continue
            [ "$left" -gt 0 ] || break
            left=$((left - 1))
            room=$((room - ${#name} - 1))
            if [ "$room" -lt 0 ]; then because 'Value too large for defined data type'; exit; fi
            printf '%s\0' "$name"
        done
    )
}

remove_file() {
    is_there "$1" || because 'No such file or directory' || return
    if [ -d "$1" ] && ! [ -L "$1" ]; then because 'Is a directory'; return; fi
    rm -f "$1"
}

# From, to, and `replace` when what stands there may go.
rename() {
    is_there "$1" || because 'No such file or directory' || return
    if [ "$3" != replace ] && is_there "$2"; then because 'File exists'; return; fi
    # Copying to another filesystem is no renaming.
    [ "$(stat -L -c %d "${1%/*}/")" = "$(stat -L -c %d "${2%/*}/")" ] ||
        because 'Invalid cross-device link' || return
    mv -f -T "$1" "$2"
}

# Path, what it is to say.
make_link() {
    if is_there "$1"; then because 'File exists'; return; fi
    ln -s -- "$2" "$1"
}

read_link() {
    [ -L "$1" ] || because 'Invalid argument' || return
    readlink -n "$1"
}

resize() {
    look "$1"
    [ -n "$kind" ] || because "$why" || return
    [ "$kind" = file ] || because 'Permission denied' || return
    truncate -s "$2" "$1"
}

# Path, last read, last change.
set_times() {
    touch -c -m -d "@$3" "$1" && touch -c -a -d "@$2" "$1"
}

real_path() {
    if [ -d "$1" ]; then
        (cd -P "$1" && printf '%s' "$PWD")
    else
        readlink -f -n "$1" || because 'No such file or directory'
    fi
}

# Says which programs are missing, and does nothing.
ready() {
    missing=
    for program in cat chmod dd ln mkdir mv readlink rm rmdir stat touch truncate; do
        command -v "$program" >/dev/null || missing="$missing $program"
    done
    [ -z "$missing" ] || because "${missing# }" || return
    dd if=/dev/null of=/dev/null bs=1 count=1 skip=0 seek=0 iflag=skip_bytes,fullblock \
        oflag=seek_bytes status=none >/dev/null 2>&1 || because 'a newer dd'
}

answer() {
    case $op in
    stat) stat -L -c '%f %s %u %g %X %Y' "$path" ;;
    lstat) stat -c '%f %s %u %g %X %Y' "$path" ;;
    open) open "$path" "$b" "$c" ;;
    read) read_at "$path" "$b" "$c" ;;
    list) list "$path" "$b" "$c" ;;
    mkdir) mkdir -m "$b" "$path" ;;
    rmdir) rmdir "$path" ;;
    remove) remove_file "$path" ;;
    rename) decode "$b" && rename "$path" "$decoded" "$c" ;;
    link) decode "$b" && make_link "$path" "$decoded" ;;
    readlink) read_link "$path" ;;
    chmod) chmod "$b" "$path" ;;
    resize) resize "$path" "$b" ;;
    times) set_times "$path" "$b" "$c" ;;
    real) real_path "$path" ;;
    ready) ready ;;
    *) because 'Invalid argument' ;;
    esac
}

while read -r mark op a b c; do
    decode "$a"
    path=$decoded
    case $op in
    write) write_at "$path" "$b" "$c" ;;
    *) answer </dev/null ;;
    esac 2>&1
    printf '\n%s %s\n' "$mark" "$?"
done
