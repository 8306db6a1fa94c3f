package main

// Following objects of the API server: list, then watch, for ever. Standard library only.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// A watch that stalls without an error ends by itself after this time, and is begun anew.
const watchSeconds = 300

type apiServer struct {
	base   string
	client *http.Client
}

func inCluster() (*apiServer, error) {
	authority, err := os.ReadFile(serviceAccount + "ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		// After a node has restarted, packets to the Service of the API server are lost until
		// kube-proxy has made its rules: give up and try again, rather than wait for TCP.
		DialContext:           (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 15 * time.Second,
	}
	return &apiServer{base: "https://" + host, client: &http.Client{Transport: transport}}, nil
}

func (a *apiServer) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return nil, err
	}
	// Read each time: tokens are rotated.
	token, err := os.ReadFile(serviceAccount + "token")
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return response, nil
}

// follower says what to do with the objects of one kind.
type follower[T any] struct {
	path    string
	replace func([]T)
	set     func(T)
	remove  func(T)
	synced  func()
}

// follow never returns: whatever fails is logged and begun anew from a list.
func follow[T any](server *apiServer, what follower[T]) {
	for {
		if err := followOnce(server, what); err != nil {
			log.Printf("%s: %v; listing again in a second", what.path, err)
			time.Sleep(time.Second)
		}
	}
}

func followOnce[T any](server *apiServer, what follower[T]) error {
	ctx, cancel := context.WithTimeout(context.Background(), (watchSeconds+30)*time.Second)
	defer cancel()
	response, err := server.get(ctx, what.path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var list struct {
		Metadata metadata `json:"metadata"`
		Items    []T      `json:"items"`
	}
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return err
	}
	what.replace(list.Items)
	what.synced()
	stream, err := server.get(ctx, fmt.Sprintf("%s?watch=1&timeoutSeconds=%d&resourceVersion=%s",
		what.path, watchSeconds, list.Metadata.ResourceVersion))
	if err != nil {
		return err
	}
	defer stream.Body.Close()
	decoder := json.NewDecoder(stream.Body)
	for decoder.More() {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := decoder.Decode(&event); err != nil {
			return err
		}
		if event.Type == "ERROR" {
			return fmt.Errorf("watch ended: %s", event.Object)
		}
		var object T
		if err := json.Unmarshal(event.Object, &object); err != nil {
			return err
		}
		if event.Type == "DELETED" {
			what.remove(object)
		} else {
			what.set(object)
		}
	}
	return nil
}
