#!/bin/sh
# Trains, and goes on to the next stage only if the run is healthy: gate.sh PROJECT/RUN NEXT_STAGE... -- TRAIN...
# SEISMOGRAD_URL says where the server's pages are. Exit codes: those of training, then those of `seismograd check`.
set -eu

run=$1
shift
next=""
while [ "$1" != "--" ]; do
    next="$next $1"
    shift
done
shift

"$@"

verdict=0
seismograd check "$run" --fail-on critical || verdict=$?
case $verdict in
    0) exec $next ;;
    3) echo "gate: $run explodes; nothing is published" >&2 ;;
    *) echo "gate: nothing is known of $run; is SEISMOGRAD_URL right?" >&2 ;;
esac
exit "$verdict"
