package main

// What names mean: the records of Services and Pods, from the API server's objects.
// Knows no sockets. Follows the Kubernetes DNS specification, version 1.1.0.

import (
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

const (
	zone = "cluster.local."
	// Seconds. Short, as in CoreDNS's default: Services come and go while tests run.
	ttl = 5
)

type metadata struct {
	Name            string `json:"name"`
	Namespace       string `json:"namespace"`
	ResourceVersion string `json:"resourceVersion"`
}

type port struct {
	Name     string `json:"name"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
}

type service struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		ClusterIP    string `json:"clusterIP"`
		ExternalName string `json:"externalName"`
		Type         string `json:"type"`
		Ports        []port `json:"ports"`
	} `json:"spec"`
}

type address struct {
	IP       string `json:"ip"`
	Hostname string `json:"hostname"`
}

type endpoints struct {
	Metadata metadata `json:"metadata"`
	Subsets  []struct {
		Addresses []address `json:"addresses"`
		Ports     []port    `json:"ports"`
	} `json:"subsets"`
}

func (m metadata) key() string { return m.Namespace + "/" + m.Name }

// records holds the cluster's Services and their endpoints.
type records struct {
	mu         sync.RWMutex
	services   map[string]service
	endpoints  map[string]endpoints
	namespaces map[string]int
}

func newRecords() *records {
	return &records{
		services:   map[string]service{},
		endpoints:  map[string]endpoints{},
		namespaces: map[string]int{},
	}
}

func (r *records) setService(one service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.services[one.Metadata.key()]; !known {
		r.namespaces[one.Metadata.Namespace]++
	}
	r.services[one.Metadata.key()] = one
}

func (r *records) deleteService(one service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.services[one.Metadata.key()]; !known {
		return
	}
	delete(r.services, one.Metadata.key())
	if r.namespaces[one.Metadata.Namespace]--; r.namespaces[one.Metadata.Namespace] == 0 {
		delete(r.namespaces, one.Metadata.Namespace)
	}
}

func (r *records) replaceServices(all []service) {
	r.mu.Lock()
	r.services, r.namespaces = map[string]service{}, map[string]int{}
	r.mu.Unlock()
	for _, one := range all {
		r.setService(one)
	}
}

func (r *records) setEndpoints(one endpoints) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endpoints[one.Metadata.key()] = one
}

func (r *records) deleteEndpoints(one endpoints) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.endpoints, one.Metadata.key())
}

func (r *records) replaceEndpoints(all []endpoints) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endpoints = map[string]endpoints{}
	for _, one := range all {
		r.endpoints[one.Metadata.key()] = one
	}
}

// isOurs tells whether a name lies in the cluster's zone.
func isOurs(name string) bool {
	return dns.IsSubDomain(zone, strings.ToLower(name))
}

// answer returns the records of a name in the zone and whether the name exists at all:
// a name that exists without records of the type asked for is not NXDOMAIN.
func (r *records) answer(question dns.Question) (found []dns.RR, exists bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	name := strings.ToLower(question.Name)
	labels := dns.SplitDomainName(strings.TrimSuffix(name, zone))
	n := len(labels)
	switch {
	case n == 0:
		return nil, true
	case labels[n-1] == "svc":
		return r.ofServices(question, labels[:n-1])
	case labels[n-1] == "pod" && n == 3:
		ip := net.ParseIP(strings.ReplaceAll(labels[0], "-", "."))
		if ip == nil || r.namespaces[labels[1]] == 0 {
			return nil, false
		}
		return addresses(question, []string{ip.String()}), true
	}
	return nil, false
}

// ofServices answers for labels that stand before "svc": [[host|_port._protocol.]service.]namespace
func (r *records) ofServices(question dns.Question, labels []string) ([]dns.RR, bool) {
	n := len(labels)
	if n == 0 {
		return nil, true
	}
	if n == 1 {
		return nil, r.namespaces[labels[0]] > 0
	}
	one, known := r.services[labels[n-1]+"/"+labels[n-2]]
	if !known {
		return nil, false
	}
	switch {
	case n == 2 && one.Spec.Type == "ExternalName":
		header := dns.RR_Header{Name: question.Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl}
		return []dns.RR{&dns.CNAME{Hdr: header, Target: dns.Fqdn(one.Spec.ExternalName)}}, true
	case n == 2 && isHeadless(one):
		return addresses(question, r.readyAddresses(one)), true
	case n == 2:
		return addresses(question, []string{one.Spec.ClusterIP}), true
	case n == 3 && isHeadless(one):
		ip, ok := r.addressOfHost(one, labels[0])
		if !ok {
			return nil, false
		}
		return addresses(question, []string{ip}), true
	case n == 4 && strings.HasPrefix(labels[0], "_") && strings.HasPrefix(labels[1], "_"):
		return servicePorts(question, one, labels[0][1:], labels[1][1:])
	}
	return nil, false
}

func isHeadless(one service) bool { return one.Spec.ClusterIP == "None" }

func (r *records) readyAddresses(one service) []string {
	var ips []string
	for _, subset := range r.endpoints[one.Metadata.key()].Subsets {
		for _, each := range subset.Addresses {
			ips = append(ips, each.IP)
		}
	}
	return ips
}

func (r *records) addressOfHost(one service, host string) (string, bool) {
	for _, subset := range r.endpoints[one.Metadata.key()].Subsets {
		for _, each := range subset.Addresses {
			if each.Hostname == host || strings.ReplaceAll(each.IP, ".", "-") == host {
				return each.IP, true
			}
		}
	}
	return "", false
}

func servicePorts(question dns.Question, one service, name, protocol string) ([]dns.RR, bool) {
	for _, each := range one.Spec.Ports {
		if !strings.EqualFold(each.Name, name) || !strings.EqualFold(each.Protocol, protocol) {
			continue
		}
		if question.Qtype != dns.TypeSRV {
			return nil, true
		}
		header := dns.RR_Header{Name: question.Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: ttl}
		target := one.Metadata.Name + "." + one.Metadata.Namespace + ".svc." + zone
		return []dns.RR{&dns.SRV{Hdr: header, Port: each.Port, Weight: 100, Target: target}}, true
	}
	return nil, false
}

// addresses makes A records; the clusters of the harness have IPv4 only.
func addresses(question dns.Question, ips []string) []dns.RR {
	if question.Qtype != dns.TypeA && question.Qtype != dns.TypeANY {
		return nil
	}
	var found []dns.RR
	for _, ip := range ips {
		header := dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}
		found = append(found, &dns.A{Hdr: header, A: net.ParseIP(ip)})
	}
	return found
}
