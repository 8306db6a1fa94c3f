#!/bin/bash
# The Pod network, in place of kindnet: one point-to-point link for each Pod, addresses from
# this node's podCIDR, a route to the podCIDR of every other node. Runs for ever: nodes come.
set -o nounset -o pipefail

kubeconfig=/etc/kubernetes/kubelet.conf
configuration=/etc/cni/net.d/10-modelserving.conflist
cluster_network=${POD_SUBNET:-10.244.0.0/16} # kind's default podSubnet

until [ -s "$kubeconfig" ]; do sleep 0.2; done

# What is sent to a Pod that is gone is refused. By the default route it would leave the cluster, and
# whoever is at that address outside would answer.
ip route replace unreachable "$cluster_network"

write_configuration() {
  local subnet=$1
  mkdir -p "$(dirname "$configuration")"
  jq --null-input --arg subnet "$subnet" '{
    cniVersion: "0.4.0", name: "modelserving",
    plugins: [
      {type: "ptp", ipMasq: false,
       ipam: {type: "host-local", dataDir: "/run/cni-ipam",
              routes: [{dst: "0.0.0.0/0"}], ranges: [[{subnet: $subnet}]]}},
      {type: "portmap", capabilities: {portMappings: true}}]}' >"$configuration.new"
  mv "$configuration.new" "$configuration"
  # Pods keep their address inside the cluster and take the node's towards the world.
  local masquerade=(POSTROUTING -s "$subnet" ! -d "$cluster_network" -j MASQUERADE)
  iptables -w -t nat -C "${masquerade[@]}" 2>/dev/null || iptables -w -t nat -A "${masquerade[@]}"
}

# A watch, not a poll: a kubectl every few seconds costs a tenth of a core.
while true; do
  kubectl --kubeconfig "$kubeconfig" get nodes --watch --output json 2>/dev/null |
    jq --unbuffered --raw-output 'select(.spec.podCIDR) |
      [.metadata.name, .spec.podCIDR,
       (.status.addresses[] | select(.type == "InternalIP") | .address)] | join(" ")' |
    while read -r name subnet address; do
      if [ "$name" = "$(hostname)" ]; then
        [ -s "$configuration" ] || write_configuration "$subnet"
      else
        ip route replace "$subnet" via "$address"
      fi
    done
  # The API server has closed the watch, or does not answer yet.
  sleep 0.5
done
