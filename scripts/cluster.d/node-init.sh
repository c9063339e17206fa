#!/usr/bin/env bash
# The first process of a node, in namespaces of its own: it makes the node's file systems what they are to be, starts
# containerd and the kubelet, and starts them anew when they end. When it ends, the kernel ends everything else.
# usage: node-init.sh NODE FOLDER PROGRAMS
set -euo pipefail

node=$1 folder=$2
PATH=$3:$PATH

mount --make-rshared /
for pair in kubelet:/var/lib/kubelet containerd:/var/lib/containerd varve:/var/lib/varve logs:/var/log/pods \
    network:/etc/cni/net.d; do
    mount --bind "$folder/${pair%%:*}" "${pair#*:}"
    # What is mounted below it has to be seen by containers, and what they mount there by the node.
    mount --make-rshared "${pair#*:}"
done
# Sockets and states that a machine loses with its power.
mount -t tmpfs tmpfs /run
mkdir -p /run/containerd /run/lock
hostname "$node"

read -r _ <"$folder/plugged"

keep_running() {
    local name=$1
    shift
    while true; do
        "$@" >>"$folder/$name.log" 2>&1 || true
        echo "$name ended" >&2
        sleep 1
    done
}

keep_running containerd containerd --config "$folder/containerd.toml" &
until ctr --address /run/containerd/containerd.sock version >/dev/null 2>&1; do sleep 0.1; done
for archive in "$folder"/../../images/*.tar; do
    ctr --namespace k8s.io images import "$archive" >/dev/null
done
keep_running kubelet kubelet --config "$folder/kubelet.yaml" --kubeconfig "$folder/../../pki/$node.kubeconfig" \
    --hostname-override "$node" --node-ip "$(ip -4 -o address show eth0 | awk '{ print $4 }' | cut -d / -f 1)" &
wait
