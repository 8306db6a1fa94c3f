#!/bin/bash
# Runs once, while the node image is built: changes kind's own files where this image or a
# machine with cgroup v1 needs it, and puts the component images into containerd's store.
set -o errexit -o nounset -o pipefail

# Replace text that must be there: a newer kind that words it otherwise has to be looked at.
replace() {
  local file=$1 old=$2 new=$3
  grep --quiet --fixed-strings -- "$old" "$file" || { echo "$file has no: $old" >&2; exit 1; }
  python3 - "$file" "$old" "$new" <<'PYTHON'
import pathlib, sys
path, old, new = pathlib.Path(sys.argv[1]), *sys.argv[2:]
path.write_text(path.read_text().replace(old, new))
PYTHON
}

# Kubelet 1.20 takes the last mount point of each cgroup v1 controller; with this bind mount
# it would then look for its cgroup below the wrong one.
replace /usr/local/bin/entrypoint \
  '  mount --bind "${subsystem}/${cgroup_root}" "${subsystem}/${cgroup_root}"' '  :'

# Without that mount systemd may remove the empty cgroup before the kubelet starts: make it
# again right before. cpuset starts empty and takes no process until it is filled.
cat >>/etc/systemd/system/kubelet.service.d/11-kind.conf <<'UNIT'
ExecStartPre=/bin/sh -euc "[ -f /sys/fs/cgroup/cgroup.controllers ] || for c in /sys/fs/cgroup/*/; do [ -f $${c}cgroup.procs ] && [ ! -f $${c}cgroup.controllers ] || continue; mkdir -p $${c}kubelet; for f in cpuset.cpus cpuset.mems; do [ ! -f $${c}$$f ] || cat $${c}$$f > $${c}kubelet/$$f; done; done"
UNIT

# Raising limits needs CAP_SYS_RESOURCE, which the machine may not have.
unit=/etc/systemd/system/containerd.service
sed --in-place --expression '/^Limit/d' --expression '/^OOMScoreAdjust/d' "$unit"
replace "$unit" /usr/local/bin/containerd /usr/bin/containerd

ctr oci spec | jq 'del(.process.rlimits)' >/etc/containerd/cri-base.json
sed --in-place "s#PAUSE_IMAGE#$(cat /kind/archives/pause-image)#" /etc/containerd/config.toml

chmod 755 /kind/bin/* /usr/local/bin/*
mkdir -p /etc/kubernetes/manifests
systemctl enable kubelet.service containerd.service undo-mount-hacks.service pod-network.service
systemctl mask systemd-binfmt.service

containerd >/var/log/import.log 2>&1 &
containerd=$!
until ctr version >/dev/null 2>&1; do
  kill -0 "$containerd" || { cat /var/log/import.log >&2; exit 1; }
  sleep 0.1
done
for archive in /kind/archives/*.tar; do
  ctr --namespace k8s.io images import --no-unpack --digests --all-platforms "$archive"
done
kill "$containerd"
wait "$containerd" || true
rm -f /var/log/import.log
