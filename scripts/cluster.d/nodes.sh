# Nodes of a cluster: namespaces with containerd and a kubelet in them.
# shellcheck shell=bash disable=SC2154  # sourced by scripts/cluster, which sets the variables

# Which of the nodes it is, from 1 on.
number() {
    local node count=0
    for node in "${nodes[@]}"; do
        count=$((count + 1))
        [[ $node == "$1" ]] && echo "$count" && return
    done
}

address() {
    echo "$network.0.$((10 + $(number "$1")))"
}

control_group() {
    echo "$bridge-$1"
}

# The folders of the machine that a node has for itself, and what they are called there. Sockets below them keep short paths.
node_folders="
kubelet    /var/lib/kubelet
containerd /var/lib/containerd
varve      /var/lib/varve
logs       /var/log/pods
network    /etc/cni/net.d
"

# Starts a node. What was on its disks before is still there.
boot() {
    local node=$1 folder=$state/node/$1 id name path controller
    mkdir -p "$folder"
    while read -r name path; do
        [[ -z $name ]] || mkdir -p "$folder/$name" "$path"
    done <<<"$node_folders"
    mkdir -p /var/log/containers
    write_node_configuration "$node" "$folder"
    for controller in /sys/fs/cgroup/*/; do
        make_control_group "${controller%/}" "$(control_group "$node")"
    done
    rm -f "$folder/plugged"
    mkfifo "$folder/plugged"
    start_process "node-$node" unshare --mount --pid --net --uts --ipc --fork --kill-child --mount-proc \
        --propagation private bash scripts/cluster.d/node-init.sh "$node" "$folder" "$bin"
    id=$(running "node-$node")
    # The namespaces are there once the process is in another than this one.
    until_true "node-$node" "node $node has a network" network_differs "$id"
    plug "$node" "$id"
    echo plugged >"$folder/plugged"
}

network_differs() {
    [[ $(readlink "/proc/$1/ns/net") != "$(readlink /proc/self/ns/net)" ]]
}

# Makes a node's control group in one hierarchy. A cpuset without processors and memory takes no processes.
make_control_group() {
    local hierarchy=$1 group=$2 file
    [[ -w $hierarchy/cgroup.procs ]] || return 0
    mkdir -p "$hierarchy/$group"
    for file in cpuset.cpus cpuset.mems; do
        [[ ! -e $hierarchy/$file ]] || cat "$hierarchy/$file" >"$hierarchy/$group/$file"
    done
}

# Connects a node's network with the bridge.
plug() {
    local node=$1 id=$2 number wire
    number=$(number "$node")
    wire=$bridge-$number
    ip link add "$wire" type veth peer name eth0 netns "$id"
    ip link set "$wire" master "$bridge" up
    nsenter --target "$id" --net bash -euc "
        ip link set lo up
        ip address add $(address "$node")/24 dev eth0
        ip link set eth0 up
        ip route add default via $gateway
        $(for other in "${nodes[@]}"; do
            [[ $other == "$node" ]] || echo "ip route add $network.$(number "$other").0/24 via $(address "$other")"
        done)
    "
    # This machine reaches pods, and pods reach it (the API server, a store that tests run), without translation.
    ip route replace "$network.$number.0/24" via "$(address "$node")"
}

write_node_configuration() {
    local node=$1 folder=$2 number
    number=$(number "$node")
    cat >"$folder/containerd.toml" <<CONFIG
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
# Nothing here may lower a process's score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
CONFIG
    cat >"$folder/network/10-bridge.conflist" <<CONFIG
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$network.$number.0/24"}]]}},
  {"type": "loopback"}]}
CONFIG
    cat >"$folder/kubelet.yaml" <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(address "$node")
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/$node.crt
tlsPrivateKeyFile: $state/pki/$node.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$(control_group "$node")
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
enforceNodeAllocatable: []
oomScoreAdj: 0
# Tests kill containers over and over; they are not to wait longer for each.
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
CONFIG
}

# Waits until a node that was just started says itself that it is ready: what the API knows may be older than that.
wait_for_node() {
    local node=$1
    until_true "node-$node" "node $node renews its lease" renewed_since "$node" "$(date --utc +%FT%T.%6NZ)"
    kubectl wait --for condition=Ready --timeout 120s "node/$node" >/dev/null
}

renewed_since() {
    local renewed
    renewed=$(kubectl --namespace kube-node-lease get lease "$1" --output 'jsonpath={.spec.renewTime}')
    [[ $renewed > $2 ]]
}

# Runs a program in a node.
in_node() {
    local node=$1 id
    shift
    id=$(running "node-$node")
    nsenter --target "$id" --mount --net -- "$@"
}

# Images that a node runs besides the product: there is no registry to fetch them from.
make_images() {
    local root name version
    root=$(mktemp -d "$state/image.XXXXXX")
    chmod 0755 "$root"
    install -d "$root/bin" "$root/etc" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/mnt"
    install "$(command -v busybox)" "$root/bin/busybox"
    "$root/bin/busybox" --list | while read -r name; do
        [[ $name == busybox ]] || ln -s busybox "$root/bin/$name"
    done
    printf 'root:x:0:0:root:/:/bin/sh\n' >"$root/etc/passwd"
    scripts/image-archive "$root" localhost/busybox:1 "$state/images/busybox.tar" /bin/sh
    # Holds a pod's namespaces and does nothing.
    scripts/image-archive "$root" localhost/pause:1 "$state/images/pause.tar" /bin/sleep 2147483647
    for name in csi-provisioner csi-snapshotter csi-resizer csi-snapshot-metadata; do
        rm -rf "$root"
        install -D --mode=0755 "$bin/$name" "$root/$name"
        chmod 0755 "$root"
        version=$(basename "$bin"/."$name"-v*)
        scripts/image-archive "$root" "registry.k8s.io/sig-storage/$name:${version#."$name"-}" "$state/images/$name.tar" "/$name"
    done
    rm -rf "$root"
}

load() {
    in_node "$1" ctr --namespace k8s.io images import --no-unpack "$2" >/dev/null
}

load_everywhere() {
    local node
    for node in "${nodes[@]}"; do load "$node" "$(realpath "$1")"; done
}

cut_power() {
    end_process "node-$1"
    clear_node "$1"
}

# Kills a process of the driver's pods on a node, as a lack of memory would: the controller, the node, or a sidecar.
kill_driver() {
    local pattern id
    case $2 in
        controller | node) pattern="^/usr/local/bin/varve $2 " ;;
        *) pattern="^/$2 " ;;
    esac
    for id in $(in_node_processes "$1" pgrep --full "$pattern"); do
        in_node_processes "$1" kill -KILL "$id"
    done
}

# Runs a program among the processes of a node.
in_node_processes() {
    local first
    first=$(pgrep --parent "$(running "node-$1")")
    shift
    nsenter --target "$first" --mount --pid -- "$@" || true
}

# Takes away what outlives a node's processes: loop devices and control groups. Mounts went with the namespace.
clear_node() {
    local node=$1 group
    detach_below "$state/node/$node"
    for group in /sys/fs/cgroup/*/"$(control_group "$node")"; do
        [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    ip link delete "$bridge-$(number "$node")" 2>/dev/null || true
}

# Detaches the loop devices whose files lie in a folder, and those whose files lie in a file system on such a device.
# They are found by device and inode: the paths that the kernel shows are those of a namespace that is gone.
detach_below() {
    local folder=$1 number inode device
    local -A mine=()
    [[ -d $folder ]] || return 0
    number=$(stat --format %Hd:%Ld "$folder")
    while read -r inode; do
        mine[$inode]=1
    done < <(find "$folder" -xdev -type f -size +1M -printf '%i\n')
    while read -r device inode; do
        [[ -z ${mine[$inode]:-} ]] || detach_on "$device"
    done < <(loops_on "$number")
}

# The loop devices whose files lie on a device, by its number, each with its file's inode.
loops_on() {
    losetup --list --noheadings --output NAME,BACK-INO,BACK-MAJ:MIN |
        awk -v number="$1" '$3 == number { print $1, $2 }'
}

# Detaches a loop device after those that stand on it, and waits until it is free.
detach_on() {
    local device=$1 upper number
    number=$(lsblk --noheadings --nodeps --output MAJ:MIN "$device" | tr -d ' ')
    while read -r upper _; do
        detach_on "$upper"
    done < <(loops_on "$number")
    losetup --detach "$device"
    for _ in {1..200}; do
        losetup "$device" >/dev/null 2>&1 || return 0
        sleep 0.05
    done
    echo "$device is still in use" >&2
}
