#!/usr/bin/env bash
# Builds the four programs of a Kubernetes 1.20.2 node and control plane from Debian's source package, for tests.
# Usage: build-kubernetes.sh FOLDER. They are put into FOLDER, whole or not at all. As root, on Debian 12; 6 to 10 minutes on two cores.
set -euo pipefail

target=$1
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet)
version=1.20.2
go=/usr/lib/go-1.19

work=$target.building
rm -rf "$work"
mkdir -p "$work/sources" "$work/lists/partial" "$work/programs"

echo "installing what the build needs (apt)"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends dpkg-dev rsync golang-1.19-go golang-github-modern-go-reflect2-dev >/dev/null

# Source packages come from wherever this machine gets its binary packages. Lists of our own leave the machine's as they are.
if [ -f /etc/apt/sources.list.d/debian.sources ]; then
  sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$work/sources/debian.sources"
else
  sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$work/sources/debian.list"
fi
apt() {
  apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/sources" -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root "$@"
}
cd "$work"
apt update
apt source kubernetes
cd kubernetes-*/

# The vendored reflect2 does not run when built with Go 1.18 or newer; Debian's is what its own package is built with.
rm -rf vendor/github.com/modern-go/reflect2
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/

# There is no git repository to read a version from.
cat >"$work/version" <<VERSION
KUBE_GIT_COMMIT=archive
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v$version
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=20
VERSION

export GOROOT=$go PATH=$go/bin:$PATH GOPATH=$PWD/.go GOCACHE=$work/cache HOME=$work
export GO111MODULE=off GOPROXY=off GOFLAGS=-tags=providerless CGO_ENABLED=0
export KUBE_GIT_VERSION_FILE=$work/version KUBE_BUILD_PLATFORMS=linux/$("$go/bin/go" env GOARCH)
mkdir -p .go/src/k8s.io
ln -sfn "$PWD" .go/src/k8s.io/kubernetes

echo "building ${programs[*]}"
make generated_files
make WHAT="${programs[*]/#/cmd/}"
for program in "${programs[@]}"; do
  cp "_output/bin/$program" "$work/programs/"
done

mkdir -p "$(dirname "$target")"
rm -rf "$target"
mv "$work/programs" "$target"
rm -rf "$work"
