#!/usr/bin/env bash
# One run on several hosts by plain ssh, one process a host; the first host is process 0, to whose PORT the others connect.
#
#   HOSTS="node0 node1 user@node2" DIR=/shared/kdhash bash launch/ssh_hosts.sh --config configs/dmth_cifar10.py --workdir /shared/runs/dmth
#
# DIR is a checkout with its .venv (bash launch/quickstart.sh makes one); it, --workdir and the data lie on a file system that
# all hosts share. ssh must ask for no password. COORDINATOR=10.0.0.1:8476 where node0 has another name among the hosts than here.
# What the processes say comes here, each line behind the name of its host.
#
# Ctrl-C, or SIGTERM to this script, saves a checkpoint on all hosts; the same command goes on from there. Where one process
# fails, the others are stopped in the same way. Ends with 0, or the exit code of the process that was the first to fail.
#
# Tested with two processes and an ssh that runs its command on the same machine (tests/launch); not run on several machines.
set -euo pipefail

: "${HOSTS:?name the hosts, as in HOSTS=\"node0 node1\"}"
read -ra hosts <<< "$HOSTS"
dir=${DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
port=${PORT:-8476}
coordinator=${COORDINATOR:-${hosts[0]#*@}:$port}
mark=/tmp/kdhash-$(date +%s)-$$ # a file on each host that holds the number of its process, while it runs
printf -v arguments '%q ' "$@"
failed=$(mktemp) # index and exit code of each process that failed, in the order of time
trap 'rm -f "$failed"' EXIT

remote() { # index, command
  ssh -o BatchMode=yes -o ServerAliveInterval=15 "${hosts[$1]}" "exec bash -c $(printf %q "$2")" < /dev/null
}

# shellcheck disable=SC2329 # called by trap
stop() { # why
  trap '' USR1
  trap - INT TERM HUP
  echo "$1: stopping ${#hosts[@]} processes ..." >&2
  local index
  for index in "${!hosts[@]}"; do
    ! grep -q "^$index " "$failed" || continue
    # a host that is still being connected to may come to it late
    remote "$index" "for try in 1 2 3 4 5; do [ -s $mark.$index ] && kill -TERM \$(cat $mark.$index) && break; sleep 1; done" &
  done
}
trap 'stop "asked to stop"' INT TERM HUP
trap 'stop "a process failed"' USR1

processes=()
for index in "${!hosts[@]}"; do
  printf -v process '.venv/bin/python -m kdhash.main %s --coordinator %q --process_count %d --process_index %d' \
    "$arguments" "$coordinator" "${#hosts[@]}" "$index"
  # shellcheck disable=SC2016 # expanded on the host
  printf -v command 'cd %q || exit; %s & echo $! > %s; wait $!; code=$?; rm -f %s; exit $code' \
    "$dir" "$process" "$mark.$index" "$mark.$index"
  # In the background of a script, Ctrl-C does not reach ssh: `stop` passes it on.
  (
    trap '' INT
    trap - TERM HUP USR1 EXIT
    set +e
    remote "$index" "$command" 2>&1 | sed -u "s/^/[${hosts[$index]}] /"
    code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || { echo "$index $code" >> "$failed"; kill -USR1 $$; }
  ) &
  processes+=($!)
done

for process in "${processes[@]}"; do
  # a signal ends the wait, too
  while kill -0 "$process" 2> /dev/null; do wait "$process" || true; done
done
read -r _ code < "$failed" || code=0
exit "$code"
