#!/usr/bin/env bash
# A Kubernetes of one node, for tests. Runs as the first process of pid, mount and network namespaces of its own
# (xtask/src/cluster.rs makes them): with it everything ends, and what is set up here is seen by nobody else.
# Usage: node.sh FOLDER PROGRAMS CGROUP ADDRESS
#   FOLDER    where it keeps what is large, its logs, and admin.kubeconfig; `ready` appears there in the end
#   PROGRAMS  the folder with kube-apiserver, kube-controller-manager, kube-scheduler, kubelet
#   CGROUP    the control group that pods are put below
#   ADDRESS   where the API server is reached from outside, on the interface `uplink`
set -euo pipefail

folder=$1 programs=$2 cgroup=$3 address=$4
node=node-1 bridge=10.244.0.1
certificates=$folder/certificates logs=$folder/logs
mkdir -p "$certificates" "$logs" "$folder/containerd" "$folder/kubelet"

trap 'kill -TERM $(jobs -p) 2>/dev/null; exit 0' TERM INT
fail() { echo "$*" >&2; exit 1; }

private_folders() {
  mount --make-rprivate /
  mount -t proc proc /proc
  for path in /run /var/log /var/lib/cni; do
    mkdir -p "$path"
    mount -t tmpfs tmpfs "$path"
  done
  mkdir -p /run/node/cni /run/lock
  : >/run/node/resolv.conf
  # The kubelet sets these for the whole machine. Let it write them where only it sees them.
  local setting
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    local file=/run/node/${setting//\//-}
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
}

network() {
  ip link set lo up
  until ip link show uplink >/dev/null 2>&1; do sleep 0.05; done
  ip addr add "$address/30" dev uplink
  ip link set uplink up
  ip link add pods type bridge
  ip addr add $bridge/16 dev pods
  ip link set pods up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  cat >/run/node/cni/pods.conflist <<CNI
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/run/node/addresses",
    "ranges": [[{"subnet": "10.244.0.0/16", "rangeStart": "10.244.1.1", "gateway": "$bridge"}]],
    "routes": [{"dst": "10.244.0.0/16"}]}}]}
CNI
}

# certify NAME SUBJECT EXTENSIONS: a key and a certificate of the cluster's authority.
certify() {
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.request"
  openssl x509 -req -in "$1.request" -CA authority.crt -CAkey authority.key -CAcreateserial -days 30 -out "$1.crt" \
    -extfile <(printf '%s\n' "$3")
}

# login NAME SUBJECT SERVER: a kubeconfig of that user, whole in itself.
login() {
  certify "$1" "$2" "extendedKeyUsage=clientAuth"
  cat >"$1.kubeconfig" <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$3:6443", certificate-authority-data: $(base64 -w0 authority.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
CONFIG
}

certificates() {
  cd "$certificates"
  local servers="DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$bridge,IP:$address"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=test-authority \
    -keyout authority.key -out authority.crt
  certify apiserver /CN=kube-apiserver "subjectAltName=$servers"
  certify kubelet /CN=$node "subjectAltName=DNS:$node,IP:$bridge"
  certify apiserver-kubelet /O=system:masters/CN=apiserver-kubelet "extendedKeyUsage=clientAuth"
  login admin /O=system:masters/CN=admin "$address"
  login controllers /CN=system:kube-controller-manager 127.0.0.1
  login scheduler /CN=system:kube-scheduler 127.0.0.1
  login node /O=system:nodes/CN=system:node:$node 127.0.0.1
  openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
  openssl ec -in accounts.key -pubout -out accounts.pub
  cd /
}

# start NAME COMMAND...: a daemon that must not end before this script.
start() {
  local name=$1
  shift
  { "$@" >"$logs/$name.log" 2>&1 || true; echo "$name ended; its last words:" >&2; tail -n 20 "$logs/$name.log" >&2; kill -TERM $$; } &
}

ask() {
  curl --silent --fail --cacert "$certificates/authority.crt" --cert "$certificates/admin.crt" \
    --key "$certificates/admin.key" "https://$address:6443$1"
}

await() {
  local what=$1
  shift
  for _ in $(seq 600); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  fail "$what did not come up within a minute"
}

control_plane() {
  start etcd etcd --data-dir=/run/node/etcd
  start apiserver "$programs/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --insecure-port=0 \
    --bind-address=0.0.0.0 --advertise-address="$address" --service-cluster-ip-range=10.96.0.0/16 --cert-dir=/run/node \
    --tls-cert-file="$certificates/apiserver.crt" --tls-private-key-file="$certificates/apiserver.key" \
    --client-ca-file="$certificates/authority.crt" --kubelet-certificate-authority="$certificates/authority.crt" \
    --kubelet-client-certificate="$certificates/apiserver-kubelet.crt" \
    --kubelet-client-key="$certificates/apiserver-kubelet.key" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$certificates/accounts.pub" \
    --service-account-signing-key-file="$certificates/accounts.key" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction
  await "the API server" ask /readyz
  local own=(--leader-elect=false --bind-address=127.0.0.1 --port=0 --cert-dir=/run/node)
  start controllers "$programs/kube-controller-manager" "${own[@]}" --kubeconfig="$certificates/controllers.kubeconfig" \
    --service-account-private-key-file="$certificates/accounts.key" --root-ca-file="$certificates/authority.crt" \
    --use-service-account-credentials=true
  start scheduler "$programs/kube-scheduler" "${own[@]}" --kubeconfig="$certificates/scheduler.kubeconfig"
}

runtime() {
  # A virtual machine may refuse negative oom scores, and every pod with them.
  cat >/run/node/containerd.toml <<TOML
version = 2
root = "$folder/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:test"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/node/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/node/opt"
TOML
  start containerd containerd --config /run/node/containerd.toml
  await containerd timeout 2 ctr version
}

kubelet() {
  # Volumes in memory have their size: nodes do it unasked since 1.22.
  cat >/run/node/kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $bridge
healthzPort: 0
readOnlyPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$certificates/authority.crt"}}
authorization: {mode: Webhook}
tlsCertFile: "$certificates/kubelet.crt"
tlsPrivateKeyFile: "$certificates/kubelet.key"
cgroupDriver: cgroupfs
cgroupRoot: "$cgroup"
failSwapOn: false
makeIPTablesUtilChains: false
maxPods: 250
featureGates: {SizeMemoryBackedVolumes: true}
resolvConf: /run/node/resolv.conf
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
YAML
  start kubelet "$programs/kubelet" --config=/run/node/kubelet.yaml --kubeconfig="$certificates/node.kubeconfig" \
    --hostname-override=$node --node-ip=$bridge --root-dir="$folder/kubelet" --cert-dir=/run/node \
    --container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
    --volume-plugin-dir=/run/node/plugins
  await "the node" node_is_ready
  await "the default service account" ask /api/v1/namespaces/default/serviceaccounts/default
}

node_is_ready() {
  ask /api/v1/nodes/$node | tr -d ' \n' | grep -q '"type":"Ready","status":"True"'
}

private_folders
network
certificates >"$logs/certificates.log" 2>&1 || fail "openssl made no certificates; see $logs/certificates.log"
runtime
control_plane
kubelet
cp "$certificates/admin.kubeconfig" "$folder/admin.kubeconfig"
touch "$folder/ready"
wait
