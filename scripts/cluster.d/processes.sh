# Processes of a cluster: started in the background, with a log each, and ended by what is known of them.
# shellcheck shell=bash disable=SC2154  # sourced by scripts/cluster, which sets the variables

# When a process began, in ticks since the machine did: with the id it names a process for good, since ids are used again.
began() {
    # The name, which stands in parentheses, may hold blanks.
    sed -e 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

# Starts a process in a session of its own, so that a Ctrl-C meant for `up` reaches `up`, which takes down in order.
start_process() {
    local name=$1
    shift
    setsid "$@" >>"$state/log/$name" 2>&1 </dev/null &
    echo "$! $(began $!)" >"$state/pid/$name"
}

# The id of a process that runs, or nothing.
running() {
    local id start
    read -r id start 2>/dev/null <"$state/pid/$1" || return 1
    [[ -n $start && $(began "$id") == "$start" ]] || return 1
    echo "$id"
}

# Kills a process and waits until it is gone. Nobody is asked to end: what a cluster knows is thrown away with it.
end_process() {
    local name=$1 id
    if id=$(running "$name"); then
        kill -KILL "$id" 2>/dev/null || true
        # `tail` waits for any process, not only for children.
        timeout 20 tail --pid="$id" -s 0.05 -f /dev/null
    fi
    rm -f "$state/pid/$name"
}

# Runs a command again and again until it succeeds. Ends with the last lines of a log if it does not within two minutes,
# or if the process that writes that log has ended.
until_true() {
    local name=$1 what=$2 deadline=$((SECONDS + 120))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > deadline)) || ! running "$name" >/dev/null; then
            echo "$what: not so; the end of $state/log/$name:" >&2
            tail -n 20 "$state/log/$name" >&2
            return 1
        fi
        sleep 0.2
    done
}
