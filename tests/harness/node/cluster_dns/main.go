// Command cluster_dns stands in for CoreDNS on nodes that are built without a registry.
// It answers for Services and Pods of cluster.local, forwards everything else, and has
// CoreDNS's health (8080) and readiness (8181) endpoints. The Corefile it is given is ignored.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Clients give up on a server after 5 s (resolv.conf(5)); answer SERVFAIL before that.
const upstreamTimeout = 2 * time.Second

func main() {
	flag.String("conf", "", "ignored; kubeadm's manifest passes it")
	flag.Parse()
	server, err := inCluster()
	if err != nil {
		log.Fatalf("no service account: %v", err)
	}
	known := newRecords()
	var services, endpointLists atomic.Bool
	go follow(server, follower[service]{
		path: "/api/v1/services", replace: known.replaceServices,
		set: known.setService, remove: known.deleteService,
		synced: func() { services.Store(true) },
	})
	go follow(server, follower[endpoints]{
		path: "/api/v1/endpoints", replace: known.replaceEndpoints,
		set: known.setEndpoints, remove: known.deleteEndpoints,
		synced: func() { endpointLists.Store(true) },
	})
	go serveStatus(":8080", "/health", func() bool { return true })
	go serveStatus(":8181", "/ready", func() bool { return services.Load() && endpointLists.Load() })

	upstream, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		log.Fatalf("no upstream servers: %v", err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, request *dns.Msg) {
		respond(w, request, known, upstream)
	})
	failed := make(chan error)
	for _, network := range []string{"udp", "tcp"} {
		listener := &dns.Server{Addr: ":53", Net: network, Handler: handler}
		go func() { failed <- listener.ListenAndServe() }()
	}
	log.Fatal(<-failed)
}

func serveStatus(address, path string, ok func() bool) {
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		if !ok() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	log.Fatal(http.ListenAndServe(address, mux))
}

func respond(w dns.ResponseWriter, request *dns.Msg, known *records, upstream *dns.ClientConfig) {
	reply := new(dns.Msg)
	switch {
	case len(request.Question) != 1:
		reply.SetRcode(request, dns.RcodeFormatError)
	case isOurs(request.Question[0].Name):
		found, exists := known.answer(request.Question[0])
		reply.SetReply(request)
		reply.Authoritative = true
		reply.Answer = found
		if !exists {
			reply.Rcode = dns.RcodeNameError
		}
		if len(found) == 0 {
			reply.Ns = []dns.RR{startOfAuthority()}
		}
	default:
		reply = forward(request, upstream, w.RemoteAddr().Network())
	}
	if w.RemoteAddr().Network() == "udp" {
		reply.Truncate(datagramSize(request))
	}
	if err := w.WriteMsg(reply); err != nil {
		log.Printf("could not answer %s: %v", w.RemoteAddr(), err)
	}
}

func datagramSize(request *dns.Msg) int {
	if extension := request.IsEdns0(); extension != nil {
		return int(extension.UDPSize())
	}
	return dns.MinMsgSize
}

// startOfAuthority lets resolvers remember for a moment that there is no such record.
func startOfAuthority() dns.RR {
	header := dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}
	return &dns.SOA{Hdr: header, Ns: "ns.dns." + zone, Mbox: "hostmaster." + zone,
		Serial: uint32(time.Now().Unix()), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

func forward(request *dns.Msg, upstream *dns.ClientConfig, network string) *dns.Msg {
	client := &dns.Client{Net: network, Timeout: upstreamTimeout}
	for _, server := range upstream.Servers {
		reply, _, err := client.Exchange(request, net.JoinHostPort(server, upstream.Port))
		if err == nil {
			return reply
		}
	}
	failure := new(dns.Msg)
	failure.SetRcode(request, dns.RcodeServerFailure)
	return failure
}
