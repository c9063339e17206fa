# Who is who in a cluster: one authority, a certificate for each part, and the kubeconfigs that go with them.
# shellcheck shell=bash disable=SC2154  # sourced by scripts/cluster, which sets the variables

# usage: certificate FILE COMMON-NAME ORGANISATION [SUBJECT-ALTERNATIVE-NAMES]
certificate() {
    local file=$state/pki/$1 names=${4:-}
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$file.key" \
        -subj "/O=$3/CN=$2" -out "$file.csr" 2>/dev/null
    openssl x509 -req -in "$file.csr" -CA "$state/pki/ca.crt" -CAkey "$state/pki/ca.key" -CAcreateserial -days 30 \
        -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s\n' "${names:+subjectAltName=$names}") \
        -out "$file.crt" 2>/dev/null
}

# usage: kubeconfig FILE; for the certificate of the same name
write_kubeconfig() {
    local file=$state/pki/$1
    cat >"$file.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://$api", certificate-authority: $state/pki/ca.crt}}]
users: [{name: user, user: {client-certificate: $file.crt, client-key: $file.key}}]
contexts: [{name: context, context: {cluster: cluster, user: user}}]
current-context: context
CONFIG
    chmod 0600 "$file.kubeconfig"
}

make_certificates() {
    local node
    install -d --mode=0700 "$state/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=varve-cluster \
        -keyout "$state/pki/ca.key" -out "$state/pki/ca.crt" 2>/dev/null
    openssl genrsa -out "$state/pki/service-accounts.key" 2048 2>/dev/null
    openssl rsa -in "$state/pki/service-accounts.key" -pubout -out "$state/pki/service-accounts.pub" 2>/dev/null
    certificate api kube-apiserver cluster \
        "IP:$api,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    certificate kubelet-client kube-apiserver-kubelet-client system:masters
    certificate admin admin system:masters
    certificate controller-manager system:kube-controller-manager cluster
    certificate scheduler system:kube-scheduler cluster
    for node in "${nodes[@]}"; do
        certificate "$node" "system:node:$node" system:nodes "IP:$(address "$node"),DNS:$node"
    done
    for name in admin controller-manager scheduler "${nodes[@]}"; do write_kubeconfig "$name"; done
}
