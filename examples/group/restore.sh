#!/bin/sh
# Makes the claims of the StatefulSet in restored.yaml from the newest snapshots of a group; then that is applied.
# usage: restore.sh [GROUP [NAMESPACE]]
#
# The members of a group are named by the snapshot controller, so they are looked for: each says which group it belongs to,
# and which claim it is of. A claim that is there already is not touched, and the script fails.
set -eu

group=${1:-store}
if [ $# -gt 1 ]; then set -- --namespace "$2"; else set --; fi

members=$(kubectl get volumesnapshots "$@" --output "jsonpath={range \
.items[?(@.status.volumeGroupSnapshotName==\"$group\")]}{.metadata.name} {.spec.source.persistentVolumeClaimName}{\"\\n\"}{end}")
if [ -z "$members" ]; then
    echo "no snapshot belongs to group $group: \`kubectl get volumegroupsnapshots\` names the groups that are there" >&2
    exit 1
fi
echo "$members" | while read -r snapshot claim; do
    # data-store-0 becomes data-restored-0.
    kubectl varve restore "$(echo "$claim" | sed 's/-store-/-restored-/')" --from "$snapshot" "$@"
done
