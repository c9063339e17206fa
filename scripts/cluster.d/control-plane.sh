# The control plane of a cluster, as processes of this machine.
# shellcheck shell=bash disable=SC2154  # sourced by scripts/cluster, which sets the variables

# The bridge that nodes are plugged to; it holds the API server's service address too, so that nothing has to translate it.
start_network() {
    ip link add "$bridge" type bridge
    ip address add "$gateway/24" dev "$bridge"
    ip address add "$api/32" dev "$bridge"
    ip link set "$bridge" up
}

start_control_plane() {
    local pki=$state/pki
    start_process etcd etcd --name cluster --data-dir "$state/etcd" --log-level warn \
        --listen-client-urls "http://$etcd:2379" --advertise-client-urls "http://$etcd:2379" \
        --listen-peer-urls "http://$etcd:2380" --initial-advertise-peer-urls "http://$etcd:2380" \
        --initial-cluster "cluster=http://$etcd:2380"
    start_process api kube-apiserver --etcd-servers "http://$etcd:2379" \
        --bind-address "$api" --advertise-address "$api" --secure-port 443 --service-cluster-ip-range "$services" \
        --allow-privileged --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/api.crt" --tls-private-key-file "$pki/api.key" \
        --kubelet-certificate-authority "$pki/ca.crt" --kubelet-client-certificate "$pki/kubelet-client.crt" \
        --kubelet-client-key "$pki/kubelet-client.key" --kubelet-preferred-address-types InternalIP \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/service-accounts.pub" \
        --service-account-signing-key-file "$pki/service-accounts.key"
    until_true api 'the API server is ready' kubectl get --raw /readyz
    start_process controller-manager kube-controller-manager --kubeconfig "$pki/controller-manager.kubeconfig" \
        --leader-elect=false --secure-port 0 --use-service-account-credentials --root-ca-file "$pki/ca.crt" \
        --service-account-private-key-file "$pki/service-accounts.key" --node-monitor-grace-period 20s
    start_process scheduler kube-scheduler --kubeconfig "$pki/scheduler.kubeconfig" --leader-elect=false --secure-port 0
    kubectl apply --filename "$crds" --server-side >/dev/null
    kubectl wait --for condition=Established --timeout 60s --filename "$crds" >/dev/null
    # Part of a cluster's distribution, as its documentation has it: once a cluster, whatever drivers there are.
    start_process snapshot-controller snapshot-controller --kubeconfig "$kubeconfig" --kube-api-qps 50 --kube-api-burst 100
    until_true controller-manager 'pods can be made' kubectl get serviceaccount default
}

stop_control_plane() {
    local name
    for name in snapshot-controller scheduler controller-manager api etcd; do end_process "$name"; done
}
