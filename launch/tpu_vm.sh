#!/usr/bin/env bash
# One run on all workers of a Cloud TPU slice: create, install, run, and again after a preemption, until it is finished.
#
#   export NAME=kdhash ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite SPOT=1 SHARE=10.0.0.2:/share
#   bash launch/tpu_vm.sh all --config configs/dmth_cifar10.py --workdir /mnt/kdhash/runs/dmth \
#       --config.data_dir=/mnt/kdhash/data --config.weights_dir=/mnt/kdhash/weights
#   bash launch/tpu_vm.sh create | install | run ARGUMENTS | stop | delete          # one step alone
#
# The slice is a queued resource: `create` waits until Google has one. SHARE is an NFS share (Filestore) in its network, mounted at
# /mnt/kdhash on all workers: --workdir, data and weights must lie there, as a preempted slice takes its disks along. A slice of one
# host can do without. What is installed is the last commit. Ctrl-C and `stop` save a checkpoint on all workers; the slice stays,
# and costs, until `delete`. `all` gives up when the run, or the creation, has failed three
# times, or at once where the command has a mistake (exit code 2).
#
# The Cloud TPU API that this uses serves v2 to v6e; for newer ones see jobset.yaml.
# Not run on a TPU. Tested: with a stand-in for gcloud that notes what it is told, and is preempted once (tests/launch); its
# commands and flags against gcloud 528 and its help.
set -euo pipefail

: "${NAME:?a name for the slice}" "${ZONE:?such as us-west4-a}"
node=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)
again=75 # what kdhash ends with after SIGTERM
pause=${PAUSE:-60} # seconds between looks at the slice
asked='' interrupted=''

on_all_workers() { # command
  "${node[@]}" ssh "$NAME" --zone="$ZONE" --worker=all --command="$1" < /dev/null
}

state() { # command that describes something -> its state; NONE where it is not there, UNKNOWN where gcloud cannot say
  local errors
  errors=$(mktemp)
  if ! "$@" 2> "$errors"; then
    if grep -q NOT_FOUND "$errors"; then echo NONE; else echo UNKNOWN && cat "$errors" >&2; fi
  fi
  rm -f "$errors"
}

slice() { # READY, PREEMPTED, ...
  state "${node[@]}" describe "$NAME" --zone="$ZONE" --format='value(state)'
}

request() { # WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED, ...
  state "${queue[@]}" describe "$NAME" --zone="$ZONE" --format='value(state.state)'
}

create() {
  local options=(--accelerator-type="${TYPE:?such as v5litepod-16}" --runtime-version="${VERSION:?such as v2-alpha-tpuv5-lite}")
  [ -z "${SPOT:-}" ] || options+=(--spot)
  "${queue[@]}" create "$NAME" --node-id="$NAME" --zone="$ZONE" "${options[@]}"
  while true; do
    case $(request) in
      ACTIVE) return 0 ;;
      FAILED | SUSPEND* | DELETING | NONE) echo "no slice: the request is $(request)" >&2; return 1 ;;
    esac
    sleep "$pause"
  done
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --format=tar.gz -o "$archive" HEAD
  "${node[@]}" scp "$archive" "$NAME:kdhash.tar.gz" --zone="$ZONE" --worker=all
  rm -f "$archive"
  if [ -n "${SHARE:-}" ]; then
    # a new machine updates itself for some minutes, and holds apt's lock
    on_all_workers "mountpoint -q /mnt/kdhash || { sudo mkdir -p /mnt/kdhash && sudo apt-get -qq -o DPkg::Lock::Timeout=600 update &&
      sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y nfs-common && sudo mount -o vers=3,hard $SHARE /mnt/kdhash; }"
  fi
  # The TPU software brings Ubuntu 22.04 with Python 3.10, and a release candidate of 3.11: uv brings a newer one.
  on_all_workers "mkdir -p kdhash && tar -xzf kdhash.tar.gz -C kdhash && cd kdhash && python3 -m pip install --quiet --user uv &&
    python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && python3 -m uv pip install --quiet --python .venv -e '.[tpu]'"
}

run() {
  local arguments code process
  printf -v arguments '%q ' "$@"
  # gcloud gives the command again where a connection was lost, behind which the last process may live on and hold the TPU.
  on_all_workers "cd kdhash || exit
    if [ -e pid ]; then kill -TERM \$(cat pid) && timeout 60 tail -f --pid=\$(cat pid) /dev/null; fi 2> /dev/null
    .venv/bin/python -m kdhash.main --distributed=on --stopped_exit_code=$again $arguments & echo \$! > pid
    wait \$!; code=\$?; rm -f pid; exit \$code" &
  process=$!
  trap 'interrupted=1 asked=1; trap - INT TERM HUP; stop' INT TERM HUP
  while true; do
    code=0 interrupted=''
    wait "$process" || code=$?
    [ -n "$interrupted" ] || break # else it was a signal that ended the wait
  done
  trap - INT TERM HUP
  return "$code"
}

stop() {
  on_all_workers "if [ -e kdhash/pid ]; then kill -TERM \$(cat kdhash/pid); fi"
}

delete() {
  "${queue[@]}" delete "$NAME" --zone="$ZONE" --force --quiet
}

all() {
  local code failed=0 installed=''
  while [ "$failed" -lt 3 ]; do
    case $(slice)/$(request) in
      READY/*) ;;
      *UNKNOWN* | CREATING/* | STARTING/* | RESTARTING/* | REPAIRING/* | NONE/ACCEPTED | NONE/CREATING | NONE/PROVISIONING | NONE/WAITING*)
        sleep "$pause"
        continue
        ;;
      NONE/NONE) # a command of its own, in which an error stops
        installed=''
        bash "$0" create || { failed=$((failed + 1)); sleep "$pause"; }
        continue
        ;;
      *) # a preempted slice does not come back
        delete || sleep "$pause"
        continue
        ;;
    esac
    if [ -z "$installed" ]; then
      bash "$0" install || { failed=$((failed + 1)); sleep "$pause"; continue; }
      installed=1
    fi
    code=0
    run "$@" || code=$?
    [ "$code" != 0 ] && [ -z "$asked" ] || return "$code"
    sleep "$pause"
    # A slice that is gone, or a machine that asked the run to stop, is no mistake of the run.
    if [ "$(slice)" = READY ] && [ "$code" != "$again" ]; then
      # 2: a mistake in what was asked, which would be made again
      [ "$code" != 2 ] || { echo "the slice stays, and costs, until: bash launch/tpu_vm.sh delete" >&2; return 2; }
      failed=$((failed + 1))
    fi
  done
  echo "failed three times; the slice, if there is one, stays until: bash launch/tpu_vm.sh delete" >&2
  return 1
}

step=${1:?one of all, create, install, run, stop, delete}
shift
case $step in
  all | create | install | run | stop | delete) "$step" "$@" ;;
  *) echo "no step $step; one of all, create, install, run, stop, delete" >&2; exit 2 ;;
esac
