package main

import (
	"encoding/json"
	"testing"

	"github.com/miekg/dns"
)

// Run by cluster_dns_build.py before it builds.

func known(t *testing.T) *records {
	t.Helper()
	r := newRecords()
	for _, text := range []string{
		`{"metadata": {"namespace": "a", "name": "web"}, "spec": {"clusterIP": "10.96.0.7",
		  "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}`,
		`{"metadata": {"namespace": "a", "name": "headless"}, "spec": {"clusterIP": "None"}}`,
		`{"metadata": {"namespace": "a", "name": "away"},
		  "spec": {"type": "ExternalName", "externalName": "example.org"}}`,
	} {
		var one service
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			t.Fatal(err)
		}
		r.setService(one)
	}
	var some endpoints
	if err := json.Unmarshal([]byte(`{"metadata": {"namespace": "a", "name": "headless"}, "subsets":
		[{"addresses": [{"ip": "10.244.1.2", "hostname": "one"}, {"ip": "10.244.1.3"}]}]}`), &some); err != nil {
		t.Fatal(err)
	}
	r.setEndpoints(some)
	return r
}

func ask(r *records, name string, kind uint16) ([]string, bool) {
	found, exists := r.answer(dns.Question{Name: name, Qtype: kind, Qclass: dns.ClassINET})
	var values []string
	for _, each := range found {
		switch record := each.(type) {
		case *dns.A:
			values = append(values, record.A.String())
		case *dns.CNAME:
			values = append(values, record.Target)
		case *dns.SRV:
			values = append(values, record.Target)
		}
	}
	return values, exists
}

func TestNamesMeanWhatTheSpecificationSays(t *testing.T) {
	r := known(t)
	for _, test := range []struct {
		name   string
		kind   uint16
		exists bool
		values []string
	}{
		{"web.a.svc.cluster.local.", dns.TypeA, true, []string{"10.96.0.7"}},
		{"WEB.A.SVC.Cluster.Local.", dns.TypeA, true, []string{"10.96.0.7"}},
		{"web.a.svc.cluster.local.", dns.TypeAAAA, true, nil},
		{"web.b.svc.cluster.local.", dns.TypeA, false, nil},
		{"x.web.a.svc.cluster.local.", dns.TypeA, false, nil},
		{"headless.a.svc.cluster.local.", dns.TypeA, true, []string{"10.244.1.2", "10.244.1.3"}},
		{"one.headless.a.svc.cluster.local.", dns.TypeA, true, []string{"10.244.1.2"}},
		{"10-244-1-3.headless.a.svc.cluster.local.", dns.TypeA, true, []string{"10.244.1.3"}},
		{"away.a.svc.cluster.local.", dns.TypeA, true, []string{"example.org."}},
		{"_http._tcp.web.a.svc.cluster.local.", dns.TypeSRV, true, []string{"web.a.svc.cluster.local."}},
		{"_grpc._tcp.web.a.svc.cluster.local.", dns.TypeSRV, false, nil},
		{"10-244-1-9.a.pod.cluster.local.", dns.TypeA, true, []string{"10.244.1.9"}},
		{"10-244-1-9.b.pod.cluster.local.", dns.TypeA, false, nil},
		{"no-address.a.pod.cluster.local.", dns.TypeA, false, nil},
		{"a.svc.cluster.local.", dns.TypeA, true, nil},
		{"b.svc.cluster.local.", dns.TypeA, false, nil},
		{"cluster.local.", dns.TypeA, true, nil},
		{"other.cluster.local.", dns.TypeA, false, nil},
	} {
		values, exists := ask(r, test.name, test.kind)
		if exists != test.exists || len(values) != len(test.values) {
			t.Errorf("%s: %v, exists %v", test.name, values, exists)
			continue
		}
		for i, value := range values {
			if value != test.values[i] {
				t.Errorf("%s: %v, want %v", test.name, values, test.values)
			}
		}
	}
}

func TestADeletedServiceAndItsNamespaceAreGone(t *testing.T) {
	r := newRecords()
	one := service{Metadata: metadata{Namespace: "a", Name: "web"}}
	r.setService(one)
	r.setService(one)
	r.deleteService(one)
	r.deleteService(one)
	if _, exists := ask(r, "a.svc.cluster.local.", dns.TypeA); exists {
		t.Error("the namespace is still there")
	}
}

func TestOnlyTheClustersZoneIsOurs(t *testing.T) {
	if !isOurs("web.a.svc.cluster.local.") || !isOurs("X.CLUSTER.LOCAL.") {
		t.Error("a name of the zone is not ours")
	}
	if isOurs("example.org.") || isOurs("notcluster.local.") {
		t.Error("a name outside the zone is ours")
	}
}
