// Command kmsclient calls a KMS v2 provider with kube-apiserver's own client code, so that
// what it counts as failed is what a real API server would have seen fail.
//
//	kmsclient load   keeps a provider busy and counts, until a bound is met or SIGTERM comes
//	kmsclient reseed gives every object below an etcd prefix a seed of its own
//
// Each prints one JSON object to standard output at its end. What happens meanwhile goes
// to standard error, the client library's own lines among it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/kms/pkg/service"
)

type command func(ctx context.Context, arguments []string) (any, error)

func main() {
	commands := map[string]command{"load": load, "reseed": reseed}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: kmsclient load|reseed [flags]")
		os.Exit(2)
	}
	stopped, release := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer release()
	result, err := commands[os.Args[1]](stopped, os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "kmsclient:", err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(result)
}

// provider is where to call, and how long one call may take.
type provider struct {
	socket  string
	name    string
	timeout time.Duration
}

func (p *provider) flags(set *flag.FlagSet) {
	set.StringVar(&p.socket, "socket", "", "absolute path of the provider's unix socket")
	set.StringVar(&p.name, "name", "keyplane", "the provider's name in the EncryptionConfiguration")
	set.DurationVar(&p.timeout, "timeout", 3*time.Second, "deadline of one call; the API server's default")
}

// dial returns the API server's client, with one connection as an API server has it. The
// connection outlives a signal, so that running calls can end.
func (p *provider) dial() (service.Service, error) {
	return kmsv2.NewGRPCService(context.Background(), "unix://"+p.socket, p.name, p.timeout)
}
